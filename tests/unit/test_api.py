"""The names that `import lr_ray` offers; nothing here starts Ray."""

import subprocess
import sys

import pyarrow as pa
import pytest

import lr_ray
from lr_ray.experiments import rounds
from lr_ray.run.schemas import SCORES, SUPERVISION
from lr_ray.run.store import Run
from tests.unit.test_status import CONFIG, finished, sampled, staged


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(str(tmp_path / "run"))


def test_the_import_loads_nothing():
    code = (
        "import sys; before = set(sys.modules); import lr_ray\n"
        "new = set(sys.modules) - before\n"
        "print([m for m in new if m.split('.')[0] not in sys.stdlib_module_names])\nprint(lr_ray.make_config.__module__, lr_ray.run.__name__)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.splitlines()[0] == "['lr_ray']"
    assert out.stdout.splitlines()[1:] == ["lr_ray.api lr_ray.run"]  # a name hides no package


def test_each_public_name_is_there_and_documented():
    for name in lr_ray.__all__:
        assert getattr(lr_ray, name).__doc__
        assert name in dir(lr_ray)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lr_ray.nothing  # noqa: B018


def test_a_config_takes_sections_and_dotted_names():
    dotted = {"training.lora.rank": 4, "sampling.top_k": 7}
    config = lr_ray.make_config("demo", device="cpu", sampling={"kl_threshold": 0.3}, **dotted)
    assert (config.sampling.kl_threshold, config.sampling.top_k) == (0.3, 7)
    assert config.sampling.max_problems == lr_ray.make_config("demo").sampling.max_problems
    assert config.training.lora.rank == 4
    assert {config.resources.expert.gpus, config.resources.server.gpus} == {0}
    with pytest.raises(lr_ray.UserError, match=r"unknown key sampling\.topk; did you mean"):
        lr_ray.make_config("demo", sampling={"topk": 7})


def test_what_a_run_holds_is_read_as_tables(run):
    finished(run)
    table = pa.table({"problem_id": ["a"], "expert_correct": [True]})
    run.write_table("evaluation/demo.parquet", table)
    there = lr_ray.load_run(run.root)
    assert there.config == CONFIG
    assert there.summary["seconds_total"] == 18.5
    assert there.supervision().schema.names == SUPERVISION.names
    assert there.supervision().num_rows == 3
    assert there.scores().schema.names == SCORES.names
    assert there.scores().num_rows == 3
    assert there.answers("demo").to_pylist() == table.to_pylist()
    with pytest.raises(lr_ray.UserError, match="no answers on gsm8k; it has demo"):
        there.answers("gsm8k")
    assert there.model_path() == there.model_path().resolve()
    assert (there.model_path() / "config.json").exists()


def test_what_is_not_there_is_one_line(run, tmp_path):
    with pytest.raises(lr_ray.UserError, match="no such run"):
        lr_ray.load_run(tmp_path / "none")
    there = lr_ray.load_run(staged(run).root)
    with pytest.raises(lr_ray.UserError, match="no supervision there"):
        there.supervision()
    with pytest.raises(lr_ray.UserError, match="no model; training is not finished"):
        there.model_path()
    sampled(run)
    with pytest.raises(lr_ray.UserError, match="it has none"):
        there.answers("demo")


def test_a_wrong_stage_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(lr_ray.UserError, match=r"\['sample'\]: give some of sampling, "):
        lr_ray.run_pipeline("demo", tmp_path / "run", ["sample"])
    assert not (tmp_path / "run").exists()


def test_a_config_is_given_by_a_name_or_a_path_and_else_refused_in_one_line(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("models: {expert: embedded:expert, amateur: embedded:amateur}\nrounds: 2\n")
    assert lr_ray.make_config(file).rounds == 2
    with pytest.raises(
        lr_ray.UserError, match=r"^name is of type dict; must be a preset or a YAML"
    ):
        lr_ray.run_pipeline({"rounds": 2}, tmp_path / "run")
    with pytest.raises(lr_ray.UserError, match=r"^device = 'tpu': must be 'cpu' or 'gpu'$"):
        lr_ray.make_config("demo", device="tpu")


def test_a_run_takes_a_files_path_and_its_stages_in_their_order(tmp_path, monkeypatch):
    file, asked = tmp_path / "mine.yaml", []
    file.write_text("models: {expert: embedded:expert, amateur: embedded:amateur}\nrounds: 2\n")
    monkeypatch.setattr(rounds, "run_rounds", lambda *given, **_: asked.append(given))
    lr_ray.run_pipeline(file, tmp_path / "run", ["training", "evaluation", "sampling", "training"])
    [(config, _, stages, name)] = asked
    assert (config.rounds, stages, name) == (2, lr_ray.api.STAGES, str(file))
