"""The command line, the order of stages and the learning rate; nothing here starts Ray."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from lr_ray.cli.options import parse
from lr_ray.config import (
    Config,
    Evaluation,
    Training,
    changed,
    merge,
    preset_names,
    read_tree,
    resolve,
)
from lr_ray.embedded import amateur_path, expert_path
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.labelling.shards import put
from lr_ray.models.models import fingerprint
from lr_ray.pipeline import pipeline, stages
from lr_ray.pipeline.evaluation import tell_sampled
from lr_ray.pipeline.job import Job, check, facts, read_source
from lr_ray.pipeline.pipeline import execute
from lr_ray.problems import INDEX, read_index, stage_problems, write_rejections
from lr_ray.report import PAGE
from lr_ray.run.asked import begin, check_made, fingerprints_of
from lr_ray.run.lock import NOTE
from lr_ray.run.stages import digests
from lr_ray.run.store import Run
from lr_ray.sampling.sample import finish
from lr_ray.sampling.trajectories import made_with
from lr_ray.training.schedule import learning_rate, settled
from tests.ports import free_port
from tests.unit.test_relabel import config as small
from tests.unit.test_relabel import contents, write

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


def test_problems_that_are_sampled_from_and_asked_are_told(tmp_path):
    texts = ["How many\n eggs?", "How many pens?", "How many cups?"]
    for name, chosen in (
        ("own", texts),
        ("asked", ["How many eggs?", *texts[2:], "How many bees?"]),
    ):
        rows = [json.dumps({"problem": text, "answer": "1"}) for text in chosen]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    asked = Evaluation(benchmarks=[str(tmp_path / "asked.jsonl"), "demo"])
    run, console = Run(str(tmp_path / "run")), Console(record=True, width=200)
    assert tell_sampled(console, run, load_tasks(asked)) == {}  # nothing is staged
    stage_problems(run, changed(DEMO, {"data.source": str(tmp_path / "own.jsonl")}))
    assert tell_sampled(console, run, load_tasks(asked)) == {"asked": 2}
    told = "evaluation asked: 2 of 3 problems are also sampled from, and so not held out\n"
    assert console.export_text() == told


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


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        ({"batch_by": "trajectory"}, 247),  # the paper's 3952 samples
        ({"batch_by": "step"}, 63),
        ({"batch_by": "step", "optimizer_steps": 7}, 7),
    ],
)
def test_auto_is_as_many_optimizer_steps_as_one_pass_takes(asked, steps):
    training = Training(**{"optimizer_steps": "auto"} | asked)
    assert settled(training, kept_steps=1001, trajectories=3952).optimizer_steps == steps


def test_serving_more_than_the_expert_reads_is_refused():
    config = resolve(
        merge(read_tree("demo"), {"serving": {"max_model_len": 4096, "port": free_port()}})
    )
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


def test_variables_of_the_template_are_typed_as_what_they_are():
    for typed in (
        "enable_thinking=false,effort=low",
        '{"enable_thinking": false, "effort": "low"}',
    ):
        command = parse("", ["--config", "demo", "--models.chat_template_kwargs", typed])
        assert command.config.models.chat_template_kwargs == {
            "enable_thinking": False,
            "effort": "low",
        }


@pytest.mark.parametrize(
    ("text", "value"),
    [("False", False), ("TRUE", True), ("0", 0), ("-1", -1), ("007", "007"), ("none", "none"), ("2.5", "2.5")],
)  # fmt: skip
def test_no_text_that_a_template_takes_for_true_stands_for_false(text, value):
    command = parse("", ["--config", "demo", "--models.chat_template_kwargs", f"thinking={text}"])
    kept = command.config.models.chat_template_kwargs["thinking"]
    assert (kept, type(kept)) == (value, type(value))


@pytest.mark.parametrize("text", ["no", "Yes", "on", "OFF"])
def test_a_word_for_true_or_false_is_not_a_templates_text(text):
    with pytest.raises(UserError, match=rf"thinking: '{text}': must be true or false, or another"):
        parse("", ["--config", "demo", "--models.chat_template_kwargs", f"thinking={text}"])


@pytest.fixture
def sampled(tmp_path) -> Run:
    """A run that is sampled, with shards of made-up trajectories, and trained."""
    run = write(Run(str(tmp_path / "run")), small())
    known = facts(small(), str(expert_path()), str(amateur_path()))
    run.write_json("run.json", run.read_json("run.json") | known)
    run.write_json("model/config.json", {})
    trained = {
        "optimizer_steps": 2,
        "trained_steps": 32,
        "distinct_steps": 9,
        "final_loss": 1.0,
        "seconds": 1.0,
    }
    sampling = finish(run, small())
    run.write_json(
        "summary.json", {"sampling": sampling, "training": trained, "seconds_total": 1.0}
    )
    return run


def test_a_setting_that_a_finished_stage_depends_on_needs_a_yes(sampled, capsys):
    before = contents(sampled)
    other = small(kl_threshold=0.05)
    with pytest.raises(UserError, match=r"kl_threshold = 0\.3 \(now 0\.05\), and labelling and training would be made again; give --yes for that, --from"):  # fmt: skip
        execute(other, sampled, ("labelling",), "demo")
    with pytest.raises(UserError, match=r"concerns labelling, which this command does not do"):
        execute(other, sampled, ("training",), "demo", yes=True)
    assert contents(sampled) == before
    assert sampled.exists("model")
    assert execute(other, sampled, ("labelling",), "demo", yes=True) == 0
    assert "again      labelling, training: sampling.kl_threshold = 0.3 (now 0.05)" in capsys.readouterr().out  # fmt: skip
    assert contents(sampled) != before
    assert not sampled.exists("model")
    assert "training" not in sampled.read_json("summary.json")
    assert sampled.read_json("run.json")["config"]["sampling"]["kl_threshold"] == 0.05
    assert execute(small(), sampled, ("labelling",), "demo", yes=True) == 0
    assert contents(sampled) == before


def interrupted_after(calls: int, method):
    """The method of Run, which is interrupted at the call after so many."""
    left = iter(range(calls))

    def called(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return method(*arguments)

    return called


def test_work_that_was_half_removed_does_not_count_as_finished(sampled, monkeypatch):
    before = contents(sampled)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "remove", interrupted_after(9, Run.remove))
        with pytest.raises(KeyboardInterrupt):
            execute(small(kl_threshold=0.05), sampled, ("labelling",), "demo", yes=True)
    assert not sampled.shards("supervision")
    assert execute(small(), sampled, ("labelling",), "demo") == 0
    assert contents(sampled) == before


@pytest.mark.parametrize("removed", [2, 4, 8])
def test_making_again_that_was_interrupted_goes_on_by_the_same_command(
    sampled, monkeypatch, removed
):
    other = small(kl_threshold=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "remove", interrupted_after(removed, Run.remove))
        with pytest.raises(KeyboardInterrupt):
            execute(other, sampled, ("labelling",), "demo", yes=True)
    assert execute(other, sampled, ("labelling",), "demo", yes=True) == 0
    assert sampled.shards("supervision")
    assert not sampled.exists("model")
    assert sampled.read_json("run.json")["config"]["sampling"]["kl_threshold"] == 0.05


def test_a_job_killed_before_its_page_gets_it_from_the_same_command(sampled, monkeypatch):
    summary = sampled.read_json("summary.json")
    trained = summary.pop("training")
    sampled.write_json("summary.json", summary)
    assert execute(small(), sampled, ("sampling",), "demo") == 0
    before = Path(sampled.path(PAGE)).read_text()
    job = Job(small(), sampled, str(expert_path()), None, Console(quiet=True), summary)
    monkeypatch.setattr(stages.placement, "check_visible", lambda run: None)
    monkeypatch.setattr(stages.placement, "demands", lambda config, stage: [])
    fake = {"training": lambda job: job.summary.update(training=trained)}
    monkeypatch.setattr(stages, "_STAGES", fake)
    stages.run_stage(job, "training")  # and no more
    assert execute(small(), sampled, ("training",), "demo") == 0
    after = Path(sampled.path(PAGE)).read_text()
    assert ('id="training"' in before, 'id="training"' in after) == (False, True)
    assert sampled.exists("model/README.md")


def test_a_driver_that_lost_the_run_says_of_no_stage_that_it_is_finished(sampled, monkeypatch):
    theirs = {"sampling": {}, "theirs": {}}

    def suspended(job: Job) -> None:
        sampled.write_json(NOTE, {"token": "another", "host": "h", "pid": 7, "seen": 0.0})
        sampled.write_json("summary.json", theirs)
        job.summary["training"] = {}

    monkeypatch.setattr(stages.placement, "check_visible", lambda run: None)
    monkeypatch.setattr(stages.placement, "demands", lambda config, stage: [])
    monkeypatch.setattr(stages, "_STAGES", {"training": suspended})
    job = Job(small(), sampled, str(expert_path()), None, Console(quiet=True), {})
    with sampled.lock(), pytest.raises(StageError, match="taken this run over"):
        stages.run_stage(job, "training")
    assert sampled.read_json("summary.json") == theirs


@pytest.mark.parametrize("files", [0, 1, 4])
def test_taking_over_that_was_interrupted_goes_on(sampled, tmp_path, monkeypatch, files):
    run, other = Run(str(tmp_path / "new")), small(kl_threshold=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "take", interrupted_after(files, Run.take))
        with pytest.raises(KeyboardInterrupt):
            execute(other, run, ("labelling",), "demo", source=sampled)
    assert execute(other, run, ("labelling",), "demo", source=sampled) == 0
    whole = Run(str(tmp_path / "whole"))
    execute(other, whole, ("labelling",), "demo", source=sampled)
    assert contents(run) == contents(whole)
    assert run.read_json("summary.json")["shared"] == whole.read_json("summary.json")["shared"]


def test_a_new_run_takes_over_what_has_the_same_settings(sampled, tmp_path, capsys):
    run = Run(str(tmp_path / "new"))
    other = small(kl_threshold=0.05)
    assert execute(other, run, ("sampling",), "demo", source=sampled) == 0
    told = capsys.readouterr().out
    assert f"from       {sampled.location}: decoding, scoring\n" in told
    assert "differs    sampling.kl_threshold = 0.3 (now 0.05)\n" in told
    assert contents(run).keys() == contents(sampled).keys()
    assert contents(run) != contents(sampled)
    assert not run.exists("model")
    assert run.read_json("summary.json")["shared"] == dict.fromkeys(("decoding", "scoring"), sampled.location)  # fmt: skip
    both = Run(str(tmp_path / "both"))
    assert execute(small(), both, ("sampling",), "demo", source=sampled) == 0
    assert contents(both) == contents(sampled)
    assert both.exists("model")  # trained by the same settings
    capsys.readouterr()
    other = small(kl_threshold=0.04)  # the run has begun, and takes nothing more from elsewhere
    assert execute(other, both, ("sampling",), "demo", source=run, yes=True) == 0
    told = f"from       {run.location}: nothing is taken, as {both.location} has begun\n"
    assert told in capsys.readouterr().out
    assert execute(small(), both, ("sampling",), "demo", source=sampled, yes=True) == 0
    assert "nothing is taken" not in capsys.readouterr().out
    with pytest.raises(UserError, match="is the run itself; give another --run"):
        execute(small(), sampled, ("sampling",), "demo", source=sampled)


def test_trajectories_of_another_run_are_read_again_after_a_kill(sampled, tmp_path, monkeypatch):
    amateur = shutil.copytree(amateur_path(), tmp_path / "amateur")
    (amateur / "config.json").write_text((amateur / "config.json").read_text() + " ")
    other = changed(small(), {"models.amateur": str(amateur)})
    footer = made_with(small(), fingerprint(str(expert_path())))
    index = range(read_index(sampled)["problems"])
    table = pa.table({"index": list(index)})
    put(sampled, "trajectories", "part-0.parquet", table, {"problems": list(index), **footer})
    given = []

    def killed(job, todo, started):
        given.append(job.sampling_options)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_run_stages", killed)
    run = Run(str(tmp_path / "new"))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            execute(other, run, ("sampling",), "demo", source=sampled)
    assert given == [{"trajectories": sampled}] * 2


def test_models_and_problems_that_lie_elsewhere_now_are_the_same(sampled, tmp_path, capsys):
    there = sampled.read_json("run.json")
    moved = {}
    for role, path in (("expert", expert_path()), ("amateur", amateur_path())):
        moved[f"models.{role}"] = str(shutil.copytree(path, tmp_path / role))
        there["config"]["models"][role] = f"/gone/{role}"
    there["config"]["data"]["source"] = "/gone/problems.jsonl"
    sampled.write_json("run.json", there)
    other = changed(resolve(there["config"]), {**moved, "sampling.kl_threshold": 0.05})
    run = Run(str(tmp_path / "new"))
    assert execute(other, run, ("labelling",), "demo", source=sampled) == 0
    told = capsys.readouterr().out
    assert f"from       {sampled.location}: decoding, scoring\n" in told
    assert "differs    sampling.kl_threshold = 0.3 (now 0.05)\n" in told
    assert run.read_json("run.json")["config"]["models"]["expert"] == moved["models.expert"]
    name = tmp_path / "expert" / "config.json"
    name.write_text(name.read_text() + " ")  # other contents
    with pytest.raises(UserError, match=r"was made with another models\.expert = /gone/expert \(now .*expert\), model behind"):  # fmt: skip
        execute(other, Run(str(tmp_path / "newer")), ("training",), "demo", source=sampled)


@pytest.mark.parametrize("stage", ["sampling", "training"])
def test_a_run_whose_models_were_moved_goes_on(sampled, tmp_path, monkeypatch, stage):
    asked = sampled.read_json("run.json")
    config = resolve(asked["config"])
    for role in ("expert", "amateur"):
        asked["config"]["models"][role] = asked["models"][role]["path"] = f"/gone/{role}"
    sampled.write_json("run.json", asked)
    summary = sampled.read_json("summary.json")
    sampled.write_json("summary.json", {k: v for k, v in summary.items() if k != stage})
    before, moved = contents(sampled), {}
    for role, path in (("expert", expert_path()), ("amateur", amateur_path())):
        moved[f"models.{role}"] = str(shutil.copytree(path, tmp_path / role))
    other, ran = changed(config, moved), []
    # As of commands that load no amateur.
    check_made(sampled, other, "labelling", facts(other, moved["models.expert"], None, sampled))

    def killed(job, todo, started):
        ran.append((list(todo), job.expert))
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_run_stages", killed)
    with pytest.raises(KeyboardInterrupt):
        execute(other, sampled, (stage,), "demo")
    # All scores are there, and their labels need no engine.
    assert ran == [([] if stage == "sampling" else [stage], moved["models.expert"])]
    assert contents(sampled) == before
    assert sampled.exists("model")
    asked = sampled.read_json("run.json")
    for role in ("expert", "amateur"):
        new = moved[f"models.{role}"]
        assert asked["config"]["models"][role] == asked["models"][role]["path"] == new
    assert asked["digests"] == digests(config, fingerprints_of(asked))
    name = tmp_path / "expert" / "config.json"
    name.write_text(name.read_text() + " ")  # other contents
    again = changed(other, {"models.expert": str(tmp_path / "expert") + "/"})
    with pytest.raises(UserError, match=r"holds a run with another models\.expert = .*, and decod"):
        execute(again, sampled, (stage,), "demo")


def test_a_run_from_one_that_a_job_works_on_is_not_begun(sampled, tmp_path):
    run = Run(str(tmp_path / "new"))
    with (
        Run(sampled.location).lock(),
        pytest.raises(UserError, match=f"^--run {sampled.location}: another process"),
    ):
        execute(small(), run, ("sampling",), "demo", source=sampled)
    assert not run.exists("run.json")


@pytest.mark.parametrize("stage", ["labelling", "training"])
def test_another_run_that_is_of_no_use_is_told_with_what_differs(sampled, tmp_path, stage):
    run = Run(str(tmp_path / "new"))
    with pytest.raises(UserError, match=rf"^--from {sampled.location}: was made with another sampling\.max_new_tokens = \d+ \(now 7\), and {stage} needs its scoring; give the values in"):  # fmt: skip
        execute(small(max_new_tokens=7), run, (stage,), "demo", source=sampled)
    assert not run.exists("run.json")
    sampled.remove("summary.json")
    with pytest.raises(UserError, match=f"has not finished scoring, and {stage} needs its scoring"):
        execute(small(), run, (stage,), "demo", source=sampled)
    assert not run.exists("run.json")


def test_labels_are_made_where_no_engine_could_start(sampled, tmp_path):
    asked = {f"resources.{role}.gpus": 1 for role in ("expert", "amateur")}
    other = changed(small(kl_threshold=0.05), asked)
    run = Run(str(tmp_path / "new"))
    with pytest.raises(UserError, match=r"^gpu: "):
        execute(other, Run(str(tmp_path / "engines")), ("sampling",), "demo")
    assert execute(other, run, ("labelling",), "demo", source=sampled) == 0
    assert run.shards("supervision")


def test_training_from_another_run_makes_its_own_labels_of_the_scores(
    sampled, tmp_path, monkeypatch
):
    trained = []

    def train(job, todo, started):
        trained.append(todo)
        job.summary["seconds_total"] = 0.0

    monkeypatch.setattr(pipeline, "_run_stages", train)
    run = Run(str(tmp_path / "new"))
    assert execute(small(kl_threshold=0.05), run, ("training",), "demo", source=sampled) == 0
    assert trained == [["training"]]
    kept = [r.read_json("summary.json")["sampling"]["steps_kept"] for r in (sampled, run)]
    assert 0 < kept[0] < kept[1]


@pytest.mark.parametrize(
    ("part", "value"),
    [("sampling", "x"), ("sampling", {}), ("training", []), ("accuracy", {"demo": 5}), ("seconds_total", "x")],
)  # fmt: skip
def test_a_finished_run_whose_summary_is_of_another_form_is_told_in_one_line(sampled, part, value):
    sampled.write_json("summary.json", sampled.read_json("summary.json") | {part: value})
    before = contents(sampled)
    with pytest.raises(
        UserError, match=r"/summary\.json: holds something else than .*Error: .*; put"
    ):
        execute(small(), sampled, ("sampling",), "demo")
    assert contents(sampled) == before


def test_training_without_the_shards_of_a_finished_sampling_is_one_line(sampled):
    sampled.write_json("summary.json", {"sampling": sampled.read_json("summary.json")["sampling"]})
    sampled.remove("supervision")
    with pytest.raises(UserError, match=r"no supervision/part-\*\.parquet, which training needs"):
        execute(small(), sampled, ("training",), "demo")


def test_labelling_alone_needs_all_scores(sampled):
    sampled.remove(sampled.shards("scores")[0])
    before = contents(sampled)
    with pytest.raises(UserError, match="not all of its problems have scores; sample them first"):
        execute(small(kl_threshold=0.05), sampled, ("labelling",), "demo", yes=True)
    with pytest.raises(UserError, match="concerns decoding, which this command does not do"):
        execute(small(max_new_tokens=7), sampled, ("labelling",), "demo", yes=True)
    assert contents(sampled) == before
    assert sampled.exists("model")


def test_labelling_begins_nothing_where_there_are_no_scores(tmp_path):
    run = Run(str(tmp_path))  # a folder that is there
    with pytest.raises(UserError, match="not all of its problems have scores; sample them first"):
        execute(small(), run, ("labelling",), "demo")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def of_file(path: Path, **sampling) -> Config:
    return changed(small(**sampling), {"data.source": str(path)})


def test_a_source_that_is_refused_costs_the_run_nothing(sampled, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"problem": ""}) + "\n" + json.dumps({"problem": "2 + 3"}) + "\n")
    before, problems = contents(sampled), sampled.read_json(INDEX)
    for asked, told in (
        (
            of_file(file, max_rejected=0.0),
            r"1 of 2 rows cannot be used.*reasons: (\S*rejected\.jsonl)",
        ),
        (of_file(file, method="rejection"), "no problem has an answer"),
    ):
        with pytest.raises(UserError, match=told) as error:
            execute(asked, sampled, ("sampling",), "demo", yes=True)
        assert (contents(sampled), sampled.read_json(INDEX)) == (before, problems)
        assert sampled.exists("model")
        for reasons in re.findall(r"reasons: (\S+\.jsonl)", str(error.value)):
            assert "problem is empty" in Path(reasons).read_text()


def test_problems_of_a_refused_source_are_not_sampled_by_the_old_settings(tmp_path):
    run = Run(str(tmp_path / "run"))
    begin(run, small(), facts(small(), str(expert_path()), str(amateur_path())))
    read_source(run, small())
    problems = run.read_json(INDEX)
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"problem": "2 + 3"}) + "\n")
    with pytest.raises(UserError, match="no problem has an answer"):
        read_source(run, of_file(file, method="rejection"))
    read_source(run, small())
    assert run.read_json(INDEX) == problems


def test_a_source_that_was_refused_may_be_corrected(tmp_path, monkeypatch):
    monkeypatch.setattr("lr_ray.pipeline.pipeline._run_stages", lambda *_: None)
    monkeypatch.setattr("lr_ray.report.print_summary", lambda *_: None)
    run, file = Run(str(tmp_path / "run")), tmp_path / "rows.jsonl"
    bad, good = json.dumps({"problem": ""}) + "\n", json.dumps({"problem": "2 + 3"}) + "\n"
    asked = of_file(file, max_rejected=0.0)
    file.write_text(bad + good)
    with pytest.raises(UserError, match=r"1 of 2 rows cannot be used"):
        execute(asked, run, ("sampling",), "demo")
    assert run.exists("rejected.jsonl")
    assert not run.exists("run.json")
    file.write_text(good + json.dumps({"problem": "2 + 4"}) + "\n")
    assert execute(asked, run, ("sampling",), "demo") == 0
    assert run.exists("run.json")
    index = run.read_json(INDEX)
    assert (index["problems"], index["rejected"], run.shards("rejected")) == (2, 0, [])
    write_rejections(run)  # as at the end of sampling
    assert not run.exists("rejected.jsonl")


def test_another_model_behind_the_name_is_told_before_anything_is_removed(sampled, tmp_path):
    known = sampled.read_json("run.json")
    known["models"]["expert"]["fingerprint"] = "0" * 16
    sampled.write_json("run.json", known)
    before = contents(sampled)
    told = (
        r"another model behind models\.expert: its fingerprint = 0+ .*; give another --run, or the"
    )
    for asked in (small(kl_threshold=0.05), small()):
        asked = changed(asked, {"serving.port": free_port()})
        with pytest.raises(UserError, match=told):
            execute(asked, sampled, ("sampling", "training", "evaluation"), "demo", yes=True)
    assert contents(sampled) == before
    assert sampled.exists("model")


def test_drift_is_not_of_another_expert_than_answered(sampled, tmp_path):
    expert = shutil.copytree(expert_path(), tmp_path / "expert")
    asked = changed(small(), {"models.expert": str(expert), "evaluation.drift": 9})
    known = facts(asked, str(expert), str(amateur_path()))
    config = asked.model_dump(mode="json")
    sampled.write_json("run.json", sampled.read_json("run.json") | known | {"config": config})
    summary = sampled.read_json("summary.json") | {"evaluation": {}, "accuracy": {"demo": {}}}
    sampled.write_json("summary.json", summary)
    sampled.write_bytes("evaluation/demo.parquet", b"")
    (expert / "config.json").write_text((expert / "config.json").read_text() + " ")
    said = r"evaluation was done with another model behind models\.expert: its fingerprint"
    with pytest.raises(UserError, match=said):
        execute(asked, sampled, ("evaluation",), "demo")


def test_a_setting_of_a_stage_that_has_not_begun_may_change(sampled):
    sampled.remove("model")
    sampled.write_json("summary.json", {"sampling": sampled.read_json("summary.json")["sampling"]})
    steps = resolve(merge(small().model_dump(mode="json"), {"training": {"optimizer_steps": 3}}))
    begin(sampled, steps, facts(steps, str(expert_path()), None))
    asked = sampled.read_json("run.json")
    assert asked["config"]["training"]["optimizer_steps"] == 3
    assert asked["models"].keys() == {"expert", "amateur"}


def test_quantised_weights_are_sampled_and_not_trained(tmp_path):
    expert = shutil.copytree(expert_path(), tmp_path / "expert")
    said = json.loads((expert / "config.json").read_text())
    said["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (expert / "config.json").write_text(json.dumps(said))
    tree = {"models": {"expert": str(expert)}, "serving": {"port": free_port()}}
    config = resolve(merge(read_tree("demo"), tree))
    assert check(config, ["sampling"]) == (str(expert), str(amateur_path()))
    with pytest.raises(UserError, match=r"models\.expert: .*: its weights are quantised \(awq\)"):
        check(config, ["sampling", "training"])
