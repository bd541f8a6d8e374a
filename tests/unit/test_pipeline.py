"""The command line, the order of stages and the learning rate; nothing here starts Ray."""

import json

import pytest

from lr_ray.cli.options import parse
from lr_ray.config import merge, preset_names, read_tree, resolve
from lr_ray.errors import UserError
from lr_ray.pipeline.pipeline import check, execute, void_from
from lr_ray.training.schedule import learning_rate

DEMO = resolve(read_tree("demo"))


def test_each_preset_has_a_run_directory_of_its_own():
    runs = [parse("", ["--config", name]).run.location for name in preset_names()]
    assert runs == [f"runs/{name}" for name in preset_names()]


def test_file_and_overrides(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("models: {expert: a/b, amateur: c/d}\nsampling: {top_k: 7}\n")
    arguments = ["--config", str(file), "--sampling.kl_threshold", "0.3", "--training.lora.rank=4"]
    command = parse("", arguments)
    assert command.run.location == "runs/mine"
    assert command.config.models.expert == "a/b"
    assert command.config.sampling.top_k == 7
    assert command.config.sampling.kl_threshold == 0.3
    assert command.config.training.lora.rank == 4
    assert parse("", ["--config", "demo", "--evaluation.benchmarks=demo,x"]).config.evaluation.benchmarks == ["demo", "x"]  # fmt: skip


def test_run_without_config_uses_its_own(tmp_path):
    asked = {"schema_version": 1, "config": DEMO.model_dump(mode="json")}
    (tmp_path / "run.json").write_text(json.dumps(asked))
    assert parse("", ["--run", str(tmp_path)]).config == DEMO
    asked["config"]["sampling"]["speculation"] = 3
    asked["versions"] = {"lr_ray": "9.0"}
    (tmp_path / "run.json").write_text(json.dumps(asked))
    with pytest.raises(UserError, match=r"made by lr_ray 9\.0, whose sampling\.speculation this"):
        parse("", ["--run", str(tmp_path)])
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"run\.json: not of schema version 1"):
        parse("", ["--run", str(tmp_path)])


@pytest.mark.parametrize(
    ("stage", "needed"), [("training", "sampling"), ("evaluation", "sampling")]
)
def test_stages_ask_for_the_ones_before(tmp_path, stage, needed):
    command = parse("", ["--config", "demo", "--run", str(tmp_path)])
    with pytest.raises(UserError, match=f"{needed} is not finished, and {stage} needs it"):
        execute(command.config, command.run, (stage,), "demo")


def test_a_new_result_voids_what_was_made_of_the_old_one():
    parts = ("sampling", "training", "serving", "evaluation", "accuracy", "seconds_total")
    summary = dict.fromkeys(parts, 1)
    void_from(summary, "training")
    assert list(summary) == ["sampling", "seconds_total"]
    void_from(summary, "sampling")
    assert list(summary) == ["seconds_total"]


def test_learning_rate_rises_then_falls():
    training = DEMO.training.model_copy(
        update={"optimizer_steps": 10, "warmup": 0.2, "learning_rate": 1.0}
    )
    rates = [learning_rate(step, training) for step in range(10)]
    assert rates == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    constant = training.model_copy(update={"schedule": "constant", "warmup": 0.0})
    assert {learning_rate(step, constant) for step in range(10)} == {1.0}
    cosine = training.model_copy(update={"schedule": "cosine", "warmup": 0.0})
    rates = [learning_rate(step, cosine) for step in range(10)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[5]) == pytest.approx((1.0, 0.5))


def test_serving_more_than_the_expert_reads_is_refused():
    config = resolve(merge(read_tree("demo"), {"serving": {"max_model_len": 4096}}))
    with pytest.raises(
        UserError, match=r"serving\.max_model_len = 4096 is more than the expert reads"
    ):
        check(config, ["evaluation"])


def test_numbers_of_a_choice_are_read_off_the_command_line():
    command = parse(
        "", ["--config", "demo", "--training.zero_stage", "3", "--evaluation.shots=0,4"]
    )
    assert command.config.training.zero_stage == 3
    assert command.config.evaluation.shots == [0, 4]
    with pytest.raises(UserError, match=r"training\.zero_stage"):
        parse("", ["--config", "demo", "--training.zero_stage", "4"])
