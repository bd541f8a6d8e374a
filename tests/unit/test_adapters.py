"""Adapters that are served beside their model: what is checked, and what the engine is told."""

import json
import shutil

import pyarrow as pa
import pytest

from lr_ray.cli.serve import _serve
from lr_ray.config import ServeConfig, merge, read_tree, resolve
from lr_ray.embedded import amateur_path, expert_path
from lr_ray.errors import UserError
from lr_ray.models import adapters
from lr_ray.models.models import fingerprint, resolve_all, resolve_served
from lr_ray.pipeline.stages import add_drift
from lr_ray.placement.sizes import largest
from lr_ray.run.store import Run
from lr_ray.serving.application import build

EXPERT = str(expert_path())


@pytest.fixture
def adapter(tmp_path):
    """A directory as PEFT writes it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(EXPERT)
    get_peft_model(base, LoraConfig(r=12, target_modules=["q_proj"])).save_pretrained(
        tmp_path / "a"
    )
    return tmp_path / "a"


def test_adapters_stand_on_the_one_model_that_is_there(adapter):
    models = {"expert": EXPERT, "improved": str(adapter)}
    assert adapters.with_adapters(models) == ({"expert": EXPERT}, {"improved": str(adapter)})
    assert adapters.with_adapters({"a": EXPERT, "b": EXPERT})[1] == {}
    assert resolve_served(str(adapter), "models.improved") == str(adapter)


def test_a_runs_adapter_is_served_beside_the_model_that_it_was_trained_on_alone(adapter):
    other = str(amateur_path())
    models = {"expert": EXPERT, "improved": str(adapter)}
    wrong = {"expert": other, "improved": str(adapter)}
    assert resolve_all(wrong) == wrong  # of no run: who knows
    known = {"expert": {"path": "embedded:expert", "fingerprint": fingerprint(EXPERT)}}
    Run(str(adapter.parent)).write_json(
        "run.json", {"schema_version": 1, "config": {}, "models": known}
    )
    assert resolve_all(models) == models
    with pytest.raises(UserError) as raised:
        resolve_all(wrong)
    assert str(raised.value) == (
        f"models.improved: {adapter}: was trained on another model than {other}; serve it beside "
        "that one, embedded:expert"
    )


@pytest.mark.parametrize("others", [{}, {"one": EXPERT, "two": EXPERT}])
def test_an_adapter_without_its_model_or_with_several_is_refused(adapter, others):
    with pytest.raises(
        UserError, match=r"^models: improved are adapters, which need one model to stand on"
    ):
        adapters.with_adapters(others | {"improved": str(adapter)})


def test_the_engine_has_room_for_the_largest_rank_in_steps_that_vllm_knows(adapter):
    options = adapters.engine_options({"x": str(adapter), "y": str(adapter)})
    assert (options["max_lora_rank"], options["max_loras"]) == (16, 3)
    assert [(m.name, m.path) for m in options["lora_modules"]] == [
        ("x", str(adapter)),
        ("y", str(adapter)),
    ]
    assert adapters.engine_options({}) == {}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3': only LORA can be served"),
        ({"r": 1024}, "r = 1024: must be 1 to 512 to be served"),
        ({"r": None}, "r = None: must be 1 to 512 to be served"),
        (
            {"bias": "all"},
            "bias = 'all': cannot be served as it is; serve the model merged with it",
        ),
        ({"use_dora": True}, "use_dora = True: cannot be served as it is"),
        (
            {"modules_to_save": ["lm_head"]},
            r"modules_to_save = \['lm_head'\]: cannot be served as it is",
        ),
        (
            {"alpha_pattern": {"q_proj": 32}},
            r"alpha_pattern = {'q_proj': 32}: cannot be served as it is",
        ),
        (
            {"rank_pattern": {"q_proj": 4}},
            r"rank_pattern = {'q_proj': 4}: cannot be served as it is",
        ),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights = 'pissa_niter_4': cannot be served as it is",
        ),
        ("", r"no \*.safetensors weights"),
        (
            "b.safetensors",
            r"no adapter_model\.safetensors, the only name .*; rename b\.safetensors",
        ),
    ],
)
def test_what_cannot_be_served_is_named(adapter, changed, message):
    if isinstance(changed, str):
        weights = adapter / "adapter_model.safetensors"
        weights.rename(adapter / (changed or "none"))
    else:
        config = json.loads((adapter / adapters.CONFIG).read_text())
        (adapter / adapters.CONFIG).write_text(json.dumps(config | changed))
    with pytest.raises(UserError, match=message) as raised:
        resolve_served(str(adapter), "models.improved")
    assert str(raised.value).startswith("models.improved: ")


def test_what_changes_no_update_is_served(adapter):
    config = json.loads((adapter / adapters.CONFIG).read_text())
    plain = {
        "use_rslora": True,
        "bias": "none",
        "alpha_pattern": None,
        "init_lora_weights": "gaussian",
    }
    (adapter / adapters.CONFIG).write_text(json.dumps(config | plain))
    assert resolve_served(str(adapter), "models.improved") == str(adapter)


def test_a_model_with_an_adapters_config_beside_it_is_a_model(adapter, tmp_path):
    shutil.copytree(EXPERT, tmp_path / "model")
    shutil.copy(adapter / adapters.CONFIG, tmp_path / "model")
    assert not adapters.is_adapter(str(tmp_path / "model"))


def test_adapters_that_a_gpu_would_serve_in_float32_are_refused_before_ray_starts(adapter):
    tree = {
        "models": {"expert": EXPERT, "improved": str(adapter)},
        "serving": {"dtype": "float32"},
        "resources": {"server": {"gpus": 1}},
    }
    config = resolve(tree, ServeConfig)
    for serves in (lambda: _serve(config.models, config, "log", None, {}), lambda: build(config)):
        with pytest.raises(UserError, match=r"^serving.dtype float32: vLLM serves adapters on a"):
            serves()


def test_full_fine_tuning_makes_no_adapter_to_serve():
    tree = merge(read_tree("demo"), {"serving": {"adapters": True}, "training": {"method": "full"}})
    with pytest.raises(
        UserError, match=r"serving\.adapters: training.method = full makes no adapter"
    ):
        resolve(tree)


def test_drift_is_read_from_the_merged_model_where_an_adapter_was_asked(
    adapter, tmp_path, monkeypatch
):
    run, config = (
        Run(str(tmp_path)),
        resolve(merge(read_tree("demo"), {"evaluation": {"drift": 50}})),
    )
    run.write_table("evaluation/demo.parquet", pa.table({"problem": ["1"]}))
    read: list[str] = []
    monkeypatch.setattr(
        "lr_ray.audit.drift.drift", lambda paths, *others: read.append(paths["improved"])
    )
    for asked in (str(adapter), EXPERT):
        assert add_drift(run, config, {"accuracy": {"demo": {}}}, print, asked)
    assert read == [run.path("model"), EXPERT]


def test_a_rank_that_vllm_does_not_serve_is_refused_before_it_is_trained():
    trained = {"serving": {"adapters": True}, "training": {"lora": {"rank": 513}}}
    said = r"serving\.adapters: vLLM serves adapters of rank 512 at most, and training\.lora\.rank = 513"
    with pytest.raises(UserError, match=said):
        resolve(merge(read_tree("demo"), trained))


def test_placement_is_told_the_ranks_of_the_adapters_beside_a_model(adapter):
    model = largest({"expert": EXPERT}, {"x": str(adapter), "y": str(adapter)})
    assert model
    assert model.ranks == (12, 12)
