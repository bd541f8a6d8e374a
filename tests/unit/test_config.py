"""Presets, errors that name the field, and an import that stays light."""

import subprocess
import sys
from importlib import resources

import pytest

from lr_ray.cli.options import parse
from lr_ray.config import Config, Place, merge, preset_names, read_tree, resolve
from lr_ray.errors import UserError


def demo(over: dict) -> Config:
    return resolve(merge(read_tree("demo"), over))


def test_import_loads_no_heavy_library():
    code = (
        "import sys, lr_ray.config; "
        "print([m for m in ('torch', 'ray', 'vllm', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


PAPER = {
    "qwen2.5-math-1.5b", "qwen2.5-math-1.5b-instruct", "qwen2.5-math-7b", "qwen2.5-math-7b-instruct",
    "deepseek-r1-distill-qwen-1.5b",
}  # fmt: skip
OTHERS = {  # expert, amateur, and variables of the chat template
    "qwen3-4b": ("Qwen/Qwen3-4B", "Qwen/Qwen3-0.6B", {"enable_thinking": False}),
    "qwen3-4b-base": ("Qwen/Qwen3-4B-Base", "Qwen/Qwen3-0.6B-Base", {}),
    "qwen3-1.7b": ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-0.6B", {"enable_thinking": False}),
    "qwen3-1.7b-base": ("Qwen/Qwen3-1.7B-Base", "Qwen/Qwen3-0.6B-Base", {}),
    "llama-3.2-3b-instruct": (
        "meta-llama/Llama-3.2-3B-Instruct", "meta-llama/Llama-3.2-1B-Instruct",
        {"date_string": "26 Jul 2024"},
    ),
    "qwen2.5-coder-1.5b-instruct": (
        "Qwen/Qwen2.5-Coder-1.5B-Instruct", "Qwen/Qwen2.5-Coder-0.5B-Instruct", {},
    ),
}  # fmt: skip


def test_presets_are_the_demo_the_papers_five_pairs_and_others():
    assert set(preset_names()) == {"demo", *PAPER, *OTHERS}
    for name in PAPER:
        config = resolve(read_tree(name))
        assert config.models.amateur == "Qwen/Qwen2.5-0.5B"
        assert len(config.evaluation.benchmarks) == 7
    for name, pair in OTHERS.items():
        models = resolve(read_tree(name)).models
        assert (models.expert, models.amateur, models.chat_template_kwargs) == pair


@pytest.mark.parametrize("name", sorted(PAPER | OTHERS.keys()))
def test_presets_of_pairs_have_the_papers_settings(name):
    config, paper = resolve(read_tree(name)), resolve(read_tree("qwen2.5-math-1.5b"))
    changes = config.changes(paper.model_dump(mode="json"))
    assert {c.name.split(".")[0] for c in changes} <= {"models", "evaluation"}
    of_evaluation = {c.name for c in changes if c.name.startswith("evaluation")}
    assert of_evaluation <= {"evaluation.benchmarks", "evaluation.paper.expert_prompt"}
    base = (
        "instruct" not in name and "deepseek" not in name and name not in ("qwen3-4b", "qwen3-1.7b")
    )
    assert config.evaluation.paper.expert_prompt == ("completion" if base else "chat")
    assert config.sampling.system_prompt == config.evaluation.system_prompt
    assert (config.sampling.kl_threshold, config.sampling.plausibility) == (0.4, 0.2)
    assert (config.training.optimizer_steps, config.training.batch_size) == (1000, 16)
    assert (config.training.learning_rate, config.training.lora.rank) == (5e-5, 8)


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_presets_say_what_was_run(name):
    text = resources.files("lr_ray").joinpath("presets", f"{name}.yaml").read_text()
    comment = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    assert ("Run through all stages" if "coder" in name else "Not run") in comment
    assert "the paper has no figures of this pair" in comment.lower()


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"sampling": {"kl_treshold": 1}}, "unknown key sampling.kl_treshold; did you mean sampling.kl_threshold?"),
        ({"samplin": {}}, "unknown key samplin; did you mean sampling?"),
        ({"resources": {"expert": {"gpu": 1}}}, "did you mean resources.expert.gpus?"),
        ({"sampling": {"plausibility": 1.5}}, "sampling.plausibility = 1.5: Input should be less than or equal to 1"),
        ({"training": {"optimizer_steps": "many"}}, "training.optimizer_steps = 'many'"),
        ({"models": {"expert": None}}, "models.expert = None"),
        ({"resources": {"amateur": {"gpus": 2}}}, "resources.amateur.gpus must be at most 1"),
        ({"resources": {"server": {"gpus": 0, "cpus": 0}}}, "resources: server asks for nothing"),
        ({"resources": {"trainer": {"gpus": 2}}}, "resources.trainer.gpus must be at most 1"),
        ({"resources": {"server": {"gpus": 1.5}}}, "resources.server.gpus: must be a fraction of one GPU or a whole number"),
        ({"sampling": {"expert": {"min_engines": 3, "max_engines": 1}}}, "sampling.expert: min_engines = 3 exceeds max_engines"),
        ({"sampling": {"batch_size": 4096, "max_new_tokens": 2048}}, "are too many for one batch"),
        ({"models": {"chat_template_kwargs": {"tokenize": True}}}, "models.chat_template_kwargs: tokenize: is not free to be set"),
        ({"models": {"expert": ""}}, "models.expert = '': String should have at least 1 character"),
        ({"models": {"chat_template_kwargs": {"effort": [1]}}}, "config: models.chat_template_kwargs.effort: [1]: must be true, false, a whole number or text"),
        ({"models": {"chat_template_kwargs": {"effort": None}}}, "config: models.chat_template_kwargs.effort: None: must be true"),
        ({"resources": {"server": {"custom": {"CPU": 5}}}}, "resources.server: custom: CPU: give cpus, gpus or memory_gb instead"),
        ({"resources": {"expert": {"custom": {"GPU": 1, "memory": 2}}}}, "resources.expert: custom: GPU, memory: give cpus, gpus"),
        ({"resources": {"trainer": {"cpus": 1e-5}}}, "resources.trainer: CPU = 1e-05: must be 0, or at least 0.0001"),
        ({"resources": {"server": {"custom": {"a": 1e-9}}}}, "resources.server: a = 1e-09: must be 0, or at least 0.0001"),
        ({"evaluation": {"max_new_tokens": 512}}, "leaves no room for a prompt in serving.max_model_len"),
        ({"sampling": {"max_new_tokens": 64, "max_model_len": 64}}, "sampling.max_new_tokens = 64 leaves no room for a prompt in sampling.max_model_len = 64"),
        ({"evaluation": {"max_problems": 2**63}}, "evaluation.max_problems = 9223372036854775808: "),
        ({"sampling": {"max_model_len": 8}}, "sampling.max_model_len = 8: "),
    ],
)  # fmt: skip
def test_bad_values_are_named(over, message):
    with pytest.raises(UserError) as error:
        demo(over)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_section_is_named():
    with pytest.raises(UserError, match=r"config: models is missing"):
        resolve({})


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(UserError, match=r"no such preset.*demo"):
        read_tree("dmeo")


def test_a_shell_leaves_the_tilde_of_config_equals_path(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("models: {expert: a, amateur: b}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse("", ["--config=~/mine.yaml"]).config.models.expert == "a"


def test_an_endpoint_in_a_config_is_an_unknown_key(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "endpoint: http://127.0.0.1/v1\nmodels: {expert: a, amateur: b}"
    )
    with pytest.raises(UserError, match=r"^config: unknown key endpoint"):
        parse("", ["--config", str(tmp_path / "mine.yaml")])


def test_file_errors_are_one_line(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_tree(str(tmp_path / "missing.yaml"))
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1,\n b: 2")
    with pytest.raises(UserError, match="not valid YAML") as error:
        read_tree(str(bad))
    assert "\n" not in str(error.value)


def test_only_what_changes_results_is_the_runs_identity():
    base = demo({})
    placed = demo(
        {
            "serving": {"port": 9000},
            "sampling": {"expert": {"max_engines": 3}},
            "resources": {"expert": {"gpus": 2, "custom": {"lr_ray_expert": 1}}, "wait_s": 5},
        }
    )
    assert base.digest() == placed.digest()
    other = demo({"sampling": {"kl_threshold": 0.3}})
    assert base.digest() != other.digest()
    (change,) = other.changes(base.model_dump(mode="json"))
    assert str(change) == "sampling.kl_threshold = 0.1 (now 0.3)"


@pytest.mark.parametrize(
    "name", ["sampling.kl_threshold", "training.lora.rank", "sampling.expert.dtype", "data.fields"]
)
def test_a_field_that_an_older_version_lacks_has_its_default_there(name):
    older = demo({"sampling": {"kl_threshold": 0.4, "expert": {"dtype": "bfloat16"}}})
    tree = older.model_dump(mode="json")
    *above, last = name.split(".")
    at = tree
    for part in above:
        at = at[part]
    del at[last]
    assert older.changes(tree) == []
    other = demo(
        {"sampling": {"kl_threshold": 0.3}, "training": {"lora": {"rank": 3}},
         "data": {"source": "a.jsonl", "fields": {"id": "nr"}}}
    )  # fmt: skip
    changed = ["data.source", "data.fields.id", "sampling.kl_threshold", "sampling.expert.dtype"]
    assert [change.name for change in other.changes(tree)] == [*changed, "training.lora.rank"]


def test_a_tree_of_a_newer_version_names_what_is_not_known():
    tree = demo({"resources": {"expert": {"custom": {"big": 1}}}}).model_dump(mode="json")
    assert Config.unknown(tree) == []
    tree["sampling"]["expert"]["speculation"] = 3
    tree["publishing"] = {"to": "hub"}
    assert Config.unknown(tree) == ["sampling.expert.speculation", "publishing.to"]


def test_every_field_is_described():
    def walk(model):
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                yield from walk(field.annotation)
            else:
                yield name, field.description

    undescribed = [name for name, description in walk(Config) if not description]
    assert undescribed == []


def test_a_place_is_asked_for_by_rays_names():
    place = Place(gpus=2, cpus=4, memory_gb=1.5, accelerator="H100", custom={"lr_ray_expert": 1})
    bundle = {
        "CPU": 4,
        "GPU": 2,
        "memory": 1.5e9,
        "accelerator_type:H100": 0.001,
        "lr_ray_expert": 1,
    }
    assert place.bundle() == bundle
    assert place.options() == {
        "num_cpus": 4, "num_gpus": 2, "memory": 1.5e9,
        "resources": {"accelerator_type:H100": 0.001, "lr_ray_expert": 1},
    }  # fmt: skip
    nothing = Place(gpus=0, cpus=0)
    assert nothing.bundle() == {}
    assert nothing.options() == {"num_cpus": 0, "num_gpus": None, "memory": None, "resources": {}}
