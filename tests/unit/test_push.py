"""What `lr-ray push` lays out and says of it; the hub is a server of ours with huggingface_hub's own client."""

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, ModelCard

from lr_ray.cli.front import run_command
from lr_ray.config import merge, read_tree, resolve
from lr_ray.embedded import expert_path
from lr_ray.models.models import facts_of
from lr_ray.report.card import _data_set, card, write_cards
from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run, read_summary
from lr_ray.training.export import export
from tests.unit.hub_server import TOKEN, Hub, hub
from tests.unit.test_status import CONFIG, finished, sampled

ROOT = Path(__file__).parents[2]
CLIENT = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Run:
    """A finished run whose adapter changes nothing yet."""
    run = finished(Run(str(tmp_path_factory.mktemp("made") / "pens")))
    for what in ("adapter", "model"):
        run.remove(what)
    export({}, str(expert_path()), "embedded:expert", Path(run.root), CONFIG.training)
    return run


def push(capsys, *argv: str) -> tuple[int, str, str]:
    code = run_command(["push", *argv])
    return code, *capsys.readouterr()


def snippets(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def asked(run: Run, summary: dict | None = None, what: str = "adapter", **sections) -> str:
    """The card of a run that was asked for with other settings."""
    there = run.read_json("run.json")
    changed = there | {"config": merge(there["config"], sections)}
    try:
        run.write_json("run.json", changed)
        return card(run, read_summary(run) if summary is None else summary, what, "org/name")
    finally:
        run.write_json("run.json", there)


def test_a_folder_gets_the_adapter_and_its_card(made, tmp_path, capsys):
    folder = tmp_path / "out"
    code, out, error = push(capsys, "--run", made.root, "--to", str(folder))
    assert (code, error) == (0, "")
    assert f"{folder}, not pushed" in out
    assert {f.name for f in folder.iterdir()} == {"README.md", "adapter_config.json", "adapter_model.safetensors"}  # fmt: skip
    found = ModelCard.load(folder / "README.md")
    assert found.data.license == "mit"
    assert found.data.library_name == "peft"
    assert "licence of the base model | mit, as the model states" in found.text
    assert re.search(r"\| demo \| \d+ \| [\d.]+% \[.*\] \| [\d.]+% \[.*\] \| [+-][\d.]+% \[", found.text)  # fmt: skip
    assert "| `training.lora.rank` | 8 |" in found.text
    assert str(made.root) not in found.content


def test_snippets_of_the_cards_load_what_was_laid_out(made, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    said = {}
    for what in ("adapter", "model", "supervision"):
        assert push(capsys, "--run", made.root, "--what", what, "--to", f"./{what}")[0] == 0
        code = snippets((tmp_path / what / "README.md").read_text())[0]
        exec(compile(code, f"{what}/README.md", "exec"), {"__name__": "__main__"})
        said[what] = capsys.readouterr().out.strip()
    assert said["adapter"] == said["model"]
    assert re.search(r"The answer is \d+\.$", said["model"])
    steps = [re.match(r"\d+ [\d.]+ \{'.+': [\d.]+", line) for line in said["supervision"].splitlines()]  # fmt: skip
    assert steps[-1]


def test_supervision_gets_a_data_card(made, tmp_path, capsys):
    folder = tmp_path / "out"
    push(capsys, "--run", made.root, "--what", "supervision", "--to", str(folder))
    found = DatasetCard.load(folder / "README.md")
    assert found.data.to_dict()["configs"] == [{"config_name": "default", "data_files": "data/*.parquet"}]  # fmt: skip
    assert {f.suffix for f in (folder / "data").iterdir()} == {".parquet"}
    assert "training.learning_rate" not in found.text
    for column in SUPERVISION.names:
        assert f"| `{column}` |" in found.text


def test_a_run_in_an_object_store_is_laid_out_too(made, tmp_path, capsys):
    remote = Run(f"memory://{uuid.uuid4().hex}")
    for name in ("run.json", "summary.json", "adapter"):
        remote.take(made, name)
    code, _, error = push(capsys, "--run", remote.location, "--to", str(tmp_path / "out"))
    assert (code, error) == (0, "")
    weights = "adapter_model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == Path(made.path(f"adapter/{weights}")).read_bytes()  # fmt: skip


def test_a_licence_that_nobody_states_is_unknown(made, tmp_path):
    base = tmp_path / "secret-place" / "mine"
    shutil.copytree(expert_path(), base)
    (base / "README.md").unlink()
    text = asked(made, models={"expert": str(base)})
    assert "licence of the base model | unknown: neither its card nor its config.json" in text
    assert re.search(r"^license: unknown$", text, re.MULTILINE)
    assert "secret-place" not in text
    assert 'base = "mine"  # a directory' in text

    other = "---\nlicense: other\nlicense_name: ours\nlicense_link: https://example.org/l\n---\nM"
    (base / "README.md").write_text(other)
    text = asked(made, models={"expert": str(base)})
    assert "| ours (https://example.org/l), as the model states |" in text
    assert ModelCard(text).data.license_name == "ours"


def test_a_directory_that_reads_like_an_id_is_no_model_of_the_hub(made, tmp_path, monkeypatch):
    shutil.copytree(expert_path(), tmp_path / "our/expert")
    monkeypatch.chdir(tmp_path)
    text = asked(made, models={"expert": "our/expert"})
    assert "base_model" not in text.split("---")[1]
    assert "from a directory; not known on the hub" in text
    assert "| mit, as the model states |" in text


def test_it_is_none_from_elsewhere_either(made, tmp_path, capsys, monkeypatch):
    shutil.copytree(expert_path(), tmp_path / "our/expert")
    run = Run(shutil.copytree(made.root, tmp_path / "run"))
    config = merge(run.read_json("run.json")["config"], {"models": {"expert": "our/expert"}})
    monkeypatch.chdir(tmp_path)
    models = {"expert": facts_of("our/expert", str(tmp_path / "our/expert"))}
    assert models["expert"]["directory"]
    assert "directory" not in facts_of(str(tmp_path / "our/expert"), str(expert_path()))
    change(run, "run.json", config=config, models=models)
    change(run, CONFIG_FILE, base_model_name_or_path="our/expert")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert push(capsys, "--run", run.root, "--to", "./out")[0] == 0
    text = Path("out/README.md").read_text()
    assert "base_model" not in text.split("---")[1]
    assert "| `expert`, from a directory; not known on the hub |" in text
    assert "our/expert" not in text
    assert (
        json.loads(Path("out/adapter_config.json").read_text())["base_model_name_or_path"]
        == "expert"
    )


def test_a_base_model_and_problems_of_the_hub_are_linked(made):
    models, data = {"expert": "Qwen/Qwen2.5-Math-1.5B"}, {"source": "gsm8k"}
    text = asked(made, models=models, data=data)
    found = ModelCard(text).data
    assert (found.base_model, found.base_model_relation) == ("Qwen/Qwen2.5-Math-1.5B", "adapter")
    assert found.datasets == ["openai/gsm8k"]
    assert 'base = "Qwen/Qwen2.5-Math-1.5B"\n' in text
    assert "synthetic" not in text


@pytest.mark.parametrize("what", ["adapter", "model", "supervision"])
def test_the_card_of_an_imported_run_says_nothing_of_a_sampling_that_never_was(
    made, tmp_path, what
):
    run = Run(shutil.copytree(made.root, str(tmp_path / "run")))
    models = run.read_json("run.json")["models"]
    models["amateur"] = {"path": "embedded:amateur", "fingerprint": None}
    over = {"data": {"source": "gsm8k"}, "sampling": {"kl_threshold": 0.125}}
    config = merge(run.read_json("run.json")["config"], over)
    change(run, "run.json", data={"source": "imported"}, models=models, config=config)
    sampling = read_summary(run)["sampling"] | {"imported": ["far/samples.jsonl"], "steps_kept": 7}
    text = card(run, read_summary(run) | {"sampling": sampling}, what, ".")
    assert "The supervision was imported from `samples.jsonl`: " in text
    assert "| problems | not known: those of `samples.jsonl` |" in text
    assert "| kept | 7 steps; such files hold no others |" in text
    for never in (
        "gsm8k",
        "0.125",
        "embedded:amateur",
        "far/",
        "None",
        "solved problems greedily",
        "of at most",
    ):
        assert never not in text, never
    for setting in ("models.expert", "sampling.system_prompt"):
        assert f"| `{setting}` |" in text
    assert ("| `training.lora.rank` |" in text) is (what != "supervision")
    assert "- imported\n" in text.split("---")[1]


@pytest.mark.parametrize("what", ["adapter", "model", "supervision"])
@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"evaluation": {"system_prompt": 'Say "so"\nin \\boxed{}.'}}, "boxed"),
        ({"models": {"chat_template_kwargs": {"enable_thinking": False}}}, "enable_thinking"),
        ({"sampling": {"method": "rejection"}}, "rejection sampling"),
        (
            {"sampling": {"method": "rejection", "rejection": {"samples": 1, "temperature": 0}}},
            "each problem 1 time, ",
        ),
        ({"sampling": {"selection": "random", "labels": "greedy"}}, "by the rule `random`"),
        ({"training": {"method": "full"}}, "after fine-tuning,"),
    ],
)
def test_other_settings_make_whole_cards(made, what, sections, says):
    text = asked(made, what=what, **sections)
    for code in snippets(text):
        compile(code, what, "exec")
    if what == "model":
        assert says in text


@pytest.mark.parametrize(
    ("prompt", "cell"),
    [
        ("/no_think", "/no_think"),
        ("Use http://x/form, then say: ok", "Use http://x/form, then say: ok"),
        ("In <answer>*</answer>\nor \\[a|b\\]", "`` In <answer>*</answer> or \\[a\\|b\\] ``"),
        (None, "none"),
    ],
)
def test_a_prompt_stands_whole_in_the_table_of_settings(made, prompt, cell):
    text = asked(made, sampling={"system_prompt": prompt})
    assert f"| `sampling.system_prompt` | {cell} |\n" in text


def test_a_difference_that_may_be_chance_and_no_evaluation_are_said(made):
    summary = read_summary(made)
    part = summary["accuracy"]["demo"]
    part |= {"difference_ci95": [-0.1, 0.2]}
    assert "On demo the difference could be chance" in card(made, summary, "model", ".")
    del summary["accuracy"], summary["evaluation"]
    text = card(made, summary, "model", ".")
    assert "\nNot evaluated.\n" in text
    assert "has not been evaluated" in text


def test_a_run_keeps_a_card_beside_what_it_has_trained(made):
    write_cards(made, read_summary(made))
    for what in ("adapter", "model"):
        text = (Path(made.root) / what / "README.md").read_text()
        assert text.startswith("---\n")
        assert f"# pens: {what}" in text
        assert "More Information Needed" not in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--to=model"], "--to: must be org/name"),
        (["--to=a/b/c"], "--to: must be org/name"),
        (["--to=or g/name"], "--to: must be org/name"),
        (
            ["--to=org/name"],
            "no token of the Hugging Face hub: run `hf auth login`, or set HF_TOKEN to one that may write; a folder is given as --to ./org/name",
        ),
        (["--to=FULL"], "is there and not an empty folder"),
        (["--to=FULL/link"], "is there and not an empty folder"),
        (["--to=FULL/file/x"], "Not a directory"),
        (["--to=~nosuchuser/x"], "--to ~nosuchuser/x: no such directory"),
        (["--to=./x", "--run=none"], "--run none: no such run"),
        (["--to=./x", "--run=SAMPLED"], "training is not finished, and adapter is what it makes"),
        ([], "the following arguments are required: --to"),
    ],
)
def test_what_cannot_be_pushed_is_one_line(made, argv, message, tmp_path, capsys, monkeypatch):
    for name, value in {"HF_HOME": str(tmp_path), "HF_TOKEN": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    (tmp_path / "full/link").symlink_to("nowhere")
    if "--run=SAMPLED" in argv:
        sampled(Run(str(tmp_path / "sampled")))
    given = [a.replace("FULL", str(tmp_path / "full")).replace("SAMPLED", str(tmp_path / "sampled")) for a in argv]  # fmt: skip
    code, out, error = push(capsys, "--run", made.root, *given)
    assert (code, out) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def write(run: Run, name: str, text: str) -> None:
    run.write_bytes(name, text.encode())


def change(run: Run, name: str, **fields) -> None:
    run.write_json(name, run.read_json(name) | fields)


CONFIG_FILE = "adapter/adapter_config.json"


@pytest.mark.parametrize(
    ("what", "spoil", "message"),
    [
        ("adapter", lambda run: write(run, CONFIG_FILE, '{"base'), "adapter_config.json: no whole JSON"),
        ("adapter", lambda run: write(run, CONFIG_FILE, "[]"), "adapter_config.json: must be a JSON object"),
        ("adapter", lambda run: write(run, CONFIG_FILE, "{}"), "base_model_name_or_path = None: must name the base"),
        ("adapter", lambda run: write(run, "adapter/sub/x", ""), "adapter: sub is no file; move it elsewhere"),
        ("adapter", lambda run: run.remove("adapter/adapter_model.safetensors"), "adapter: no *.safetensors weights"),
        ("adapter", lambda run: os.rename(run.path("adapter/adapter_model.safetensors"), run.path("adapter/x.safetensors")), "adapter: no adapter_model.safetensors, the only name"),
        ("model", lambda run: write(run, "model/model.safetensors", "cut"), "model: model.safetensors is cut or damaged"),
        ("model", lambda run: os.symlink("nowhere", run.path("model/x")), "model: x is no file"),
        ("adapter", lambda run: run.remove(CONFIG_FILE), "adapter: adapter_config.json: No such file"),
        ("model", lambda run: run.remove("model/config.json"), "model: no config.json"),
        ("model", lambda run: run.remove("model/tokenizer.json"), "model: no tokenizer.json"),
        ("supervision", lambda run: write(run, run.shards("supervision")[0], "cut"), ".parquet: not a whole shard; remove it"),
        ("supervision", lambda run: shutil.copy(run.path(run.shards("supervision")[0]), run.path("supervision/part-x.parquet")), ".parquet: holds problems that another shard holds"),
        *((what, lambda run, what=what: [run.remove(what), os.mkdir(run.path(what))], f"{what}: no *.{kind}")
          for what, kind in (("adapter", "safetensors"), ("model", "safetensors"), ("supervision", "parquet"))),
        ("adapter", lambda run: change(run, "summary.json", accuracy={"demo": 3}), "no card: run.json and summary.json"),
        ("adapter", lambda run: change(run, "summary.json", training={**run.read_json("summary.json")["training"], "final_loss": 10**400}), "no card: run.json and summary.json"),
        ("adapter", lambda run: change(run, "summary.json", accuracy=3), "summary.json: holds something else than lr_ray writes there"),
        ("adapter", lambda run: change(run, "run.json", config={"training": {"method": 3}}), "models is missing"),
        ("adapter", lambda run: change(run, "run.json", config={"training": 3}), "training = 3: must be a mapping"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("there", [False, True])
def test_what_is_not_whole_is_one_line_and_leaves_nothing(made, tmp_path, capsys, what, spoil, message, there):  # fmt: skip
    run, out = Run(shutil.copytree(made.root, tmp_path / "run")), tmp_path / "out"
    if there:
        out.mkdir()
    spoil(run)
    code, said, error = push(capsys, "--run", run.root, "--what", what, "--to", str(out))
    assert (code, said, error.count("\n")) == (2, "", 1)
    assert message in error
    assert [*tmp_path.rglob("out/*")] == []
    assert {f.name for f in tmp_path.iterdir()} == {"run", *(["out"] if there else [])}


def test_of_several_rounds_the_results_model_is_given_with_a_card_of_that_round(
    made, tmp_path, capsys
):
    run = Run(shutil.copytree(made.root, tmp_path / "run"))
    second = Run(shutil.copytree(made.root, tmp_path / "run/rounds/2"))
    config = merge(
        second.read_json("run.json")["config"], {"models": {"expert": run.path("model")}}
    )
    change(second, "run.json", config=config)
    change(run, "summary.json", rounds={"asked": 2, "rounds": [], "stopped": None, "result": 2})
    for folder, what in ((second, "model"), (second, "adapter"), (run, "supervision")):
        write(folder, f"{what}/notes", "of it")
        code, out, error = push(
            capsys, "--run", run.root, "--what", what, "--to", str(tmp_path / what)
        )
        assert (code, error) == (0, "")
        assert (f"round      {second.location}, the result of all rounds" in out) is (
            folder is second
        )
        assert [*(tmp_path / what).rglob("notes")]
    text = (tmp_path / "adapter/README.md").read_text()
    assert "# run, round 2: adapter\n" in text
    assert (
        "`model`, from a directory; not known on the hub: the improved expert of round 1 of `run` |"
        in text
    )
    assert "# run: supervision\n" in (tmp_path / "supervision/README.md").read_text()


def test_a_section_of_the_config_that_is_null_is_none(made, tmp_path, capsys):
    run = Run(shutil.copytree(made.root, tmp_path / "run"))
    change(run, "run.json", config=run.read_json("run.json")["config"] | {"training": None})
    assert push(capsys, "--run", run.root, "--to", str(tmp_path / "out"))[::2] == (0, "")


def test_a_folder_that_is_there_and_empty_is_filled(made, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    assert push(capsys, "--run", made.root, "--to", "./b/c")[::2] == (0, "")
    monkeypatch.chdir(tmp_path / "a")
    assert push(capsys, "--run", made.root, "--to", ".")[::2] == (0, "")
    for folder in ("a", "b/c"):
        assert {f.name for f in (tmp_path / folder).iterdir()} == {"README.md", "adapter_config.json", "adapter_model.safetensors"}  # fmt: skip


def to_hub(there: Hub, folder: Path, *argv: str, token: str = TOKEN) -> subprocess.CompletedProcess:
    variables = {"HF_ENDPOINT": there.url, "HF_TOKEN": token, "HF_HOME": str(folder)}
    command = [sys.executable, "-m", "lr_ray", "push", *argv]
    env = os.environ | CLIENT | variables
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def test_a_push_makes_a_private_repository_that_the_snippet_loads(made, tmp_path):
    with hub() as there:
        argv = ["--run", made.root, "--to", "org/pens"]
        done = to_hub(there, tmp_path, *argv)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{there.url}/org/pens (private)" in done.stdout
        repo = there.repos["models/org/pens"]
        assert repo["private"] is True
        weights = Path(made.path("adapter/adapter_model.safetensors")).read_bytes()
        assert repo["files"]["adapter_model.safetensors"] == weights
        assert json.loads(repo["files"]["adapter_config.json"])["r"] == 8

        code = snippets(repo["files"]["README.md"].decode())[0]
        env = os.environ | CLIENT | {"HF_ENDPOINT": there.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}  # fmt: skip
        loaded = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)  # fmt: skip
        assert re.search(r"The answer is \d+\.$", loaded.stdout.strip()), loaded.stderr

        done = to_hub(there, tmp_path, *argv, "--public")
        assert done.returncode == 2
        assert "is a private repository; leave out --public" in done.stderr
        done = to_hub(there, tmp_path, *argv, token="hf_wrong")
        assert done.returncode == 1
        assert done.stderr.startswith("error: --to org/pens: not to be had from the hub: ")
        assert done.stderr.count("\n") == 1


def test_a_public_repository_is_pushed_to_when_that_is_asked_and_loses_what_is_replaced(made, tmp_path):  # fmt: skip
    with hub() as there:
        files = {"data/part-old.parquet": b"old", "notes.md": b"mine"}
        there.repos["datasets/org/rows"] = {"private": False, "files": dict(files)}
        argv = ["--run", made.root, "--to", "org/rows", "--what", "supervision"]
        done = to_hub(there, tmp_path, *argv)
        assert done.returncode == 2
        assert "is a public repository; give --public" in done.stderr
        assert there.repos["datasets/org/rows"]["files"] == files
        done = to_hub(there, tmp_path, *argv, "--public")
        assert done.returncode == 0, done.stderr
        shards = {f"data/{name.rpartition('/')[2]}" for name in made.shards("supervision")}
        assert there.repos["datasets/org/rows"]["files"].keys() == shards | {"README.md", "notes.md"}  # fmt: skip


@pytest.mark.parametrize(
    ("source", "hub_id"),
    [
        ("gsm8k", "openai/gsm8k"),
        ("org/name:main", "org/name"),
        ("demo", None),
        ("./rows.jsonl", None),
    ],
)
def test_a_card_names_the_data_that_the_hub_has(source, hub_id):
    assert _data_set(resolve(merge(read_tree("demo"), {"data": {"source": source}}))) == hub_id


def test_a_folder_of_problems_is_no_data_set_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "my/problems").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert _data_set(resolve(merge(read_tree("demo"), {"data": {"source": "my/problems"}}))) is None


def test_a_part_of_a_benchmark_is_the_benchmarks_data():
    part, whole = (
        resolve(merge(read_tree("demo"), {"data": {"source": source}}))
        for source in ("mmlu_stem:physics", "mmlu_stem")
    )
    assert _data_set(part) == _data_set(whole) is not None
