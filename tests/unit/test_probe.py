"""What a probe says of scores whose figures are known, and of two models' tokenizers."""

import json
import math
import shutil
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pytest

from lr_ray.cli.front import run_command
from lr_ray.cli.options import parse
from lr_ray.config import Data, Sampling
from lr_ray.embedded import amateur_path, expert_path
from lr_ray.errors import StageError, UserError
from lr_ray.labelling.scores import score
from lr_ray.pipeline import probe as probing
from lr_ray.pipeline.probe import _gradable
from lr_ray.placement import find_models, needs
from lr_ray.placement.cards import pretended
from lr_ray.placement.site import Site
from lr_ray.problems import PROBLEM
from lr_ray.report import pair, probe
from lr_ray.run.schemas import SCORES
from lr_ray.run.store import Run
from lr_ray.sampling.sample import finish
from tests.unit import test_relabel as relabelling
from tests.unit.test_label import APART, SAME, K, batch

SETTINGS = Sampling(kl_threshold=0.4, plausibility=0.2)
# (expert, amateur) at tokens 7, 8 and 9; the expert takes 7. KL 0.32: the label prefers 8.
OTHER = ((0.5, 0.4, 0.01), (0.8, 0.1, 0.01))
UNKNOWN = ((0.9, 0.05, 0.01), (0.0, 0.5, 0.2))
KL_APART = 0.5 * math.log(5) + 0.4 * math.log(0.5)
KL_OTHER = 0.5 * math.log(0.625) + 0.4 * math.log(4)


def entropy(*weights: float) -> float:
    return -sum(w * math.log(w) for w in weights)


def figures(trajectories, **settings) -> probe.Figures:
    sampling = SETTINGS.model_copy(update=settings)
    with np.errstate(divide="ignore"):
        scored = score(batch(trajectories), sampling.plausibility, K)
    return probe.figures(scored.scores, sampling)


def test_kept_share_and_other_thresholds_are_counted():
    found = figures([[SAME, APART], [OTHER, SAME], [SAME] * 4])
    assert (found["trajectories"], found["steps"], found["steps_kept"]) == (3, 8, 1)
    assert found["kept"] == 1 / 8
    assert found["apart"] == 2 / 8
    by = {row["kl_threshold"]: row for row in found["thresholds"]}
    assert tuple(by) == probe.THRESHOLDS
    assert len(by) == 10
    assert [by[t]["steps_kept"] for t in (0.02, 0.3, 0.4, 0.6)] == [2, 2, 1, 0]
    assert [by[t]["disagreement"] for t in (0.3, 0.4, 0.6)] == [0.5, 0.0, None]


def test_quantiles_are_those_of_every_step():
    found = figures([[SAME] * 89 + [OTHER] * 8 + [APART] * 3])["kl"]
    expected = {"0.5": 0, "0.75": 0, "0.9": KL_OTHER, "0.95": KL_OTHER, "0.99": KL_APART}
    assert found == pytest.approx(expected, abs=1e-5)


def test_entropy_and_disagreement_are_of_the_kept_labels():
    found = figures([[SAME, APART, OTHER, OTHER]], kl_threshold=0.3)
    apart, other = entropy(5 / 5.5, 0.5 / 5.5), entropy(0.625 / 4.625, 4 / 4.625)
    assert found["entropy"]["mean"] == pytest.approx((apart + 2 * other) / 3, abs=1e-5)
    assert found["entropy"]["0.99"] == pytest.approx(other, abs=1e-5)
    assert found["disagreement"] == pytest.approx(2 / 3)


def test_a_label_that_only_ties_with_the_experts_token_is_no_disagreement():
    tied = ((0.5, 0.4, 0.01), (0.25, 0.2, 0.01))
    found = figures([[tied]], kl_threshold=0.1)
    assert found["steps_kept"] == 1
    assert found["entropy"]["mean"] == pytest.approx(math.log(2), abs=1e-5)
    assert found["disagreement"] == 0


def test_kept_steps_without_a_label_are_counted_apart():
    found = figures([[UNKNOWN, APART], [SAME]])
    assert (found["steps_kept"], found["kept_without_label"]) == (2, 1)
    assert found["disagreement"] == 0
    assert figures([[UNKNOWN]])["disagreement"] is None


def test_equal_models_keep_nothing_and_have_no_labels():
    found = figures([[SAME] * 3, [SAME]], kl_threshold=0.0)
    assert (found["kept"], found["kept_ci95"]) == (0, [0, 0])
    assert set(found["entropy"].values()) == {None}
    json.dumps(found, allow_nan=False)


def test_trajectories_that_the_limit_cut_are_counted():
    with np.errstate(divide="ignore"):
        scores = score(batch([[SAME], [SAME], [APART], [SAME]]), 0.2, K).scores
    place = scores.schema.get_field_index("finish_reason")
    ended = [["length", "stop", "stop", "stop"]]
    scores = scores.set_column(place, SCORES.field(place), ended)
    assert probe.figures(scores, SETTINGS)["trajectories_cut"] == 0.25


def test_the_interval_contains_the_true_share():
    random, inside = np.random.default_rng(0), 0
    for seed in range(200):
        lengths = random.integers(5, 60, 64)
        share_R = random.beta(2, 18, 64)  # trajectories differ; 10 % on the whole
        keep_N = random.random(lengths.sum()) < np.repeat(share_R, lengths)
        low, high = probe.kept_interval(keep_N, lengths, seed, resamples=500)
        inside += low <= 0.1 <= high
    assert 180 <= inside < 200


def test_the_interval_is_over_trajectories_and_the_same_each_time():
    keep_N, lengths = np.repeat([True, False], 500), np.full(20, 50)
    low, high = probe.kept_interval(keep_N, lengths, 0)
    assert low <= 0.3  # of a thousand independent steps it would be 0.47 to 0.53
    assert high >= 0.7
    assert probe.kept_interval(keep_N, lengths, 0) == [low, high]
    assert probe.kept_interval(keep_N | True, lengths, 0) == [1, 1]


GAINED = {"apart": 0.14, "kept": 0.1, "disagreement": 0.3, "kl_threshold": 0.4}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, probe.ALIKE),
        ({"apart": probe.LEAST_APART}, probe.ALIKE),
        ({"apart": probe.LEAST_APART - 1e-6}, probe.CLOSE),
        ({"kept": probe.LEAST_KEPT}, probe.ALIKE),
        ({"kept": probe.LEAST_KEPT - 1e-6}, probe.CLOSE),
        ({"disagreement": probe.LEAST_OTHERWISE}, probe.ALIKE),
        ({"disagreement": probe.LEAST_OTHERWISE - 1e-6}, probe.CLOSE),
        ({"disagreement": None}, probe.CLOSE),
        ({"apart": probe.MOST_APART}, probe.ALIKE),
        ({"apart": probe.MOST_APART + 1e-6}, probe.FAR),
        ({"disagreement": probe.MOST_OTHERWISE}, probe.ALIKE),
        ({"disagreement": probe.MOST_OTHERWISE + 1e-6}, probe.FAR),
    ],
)
def test_the_verdict_changes_at_each_bound(changed, said):
    verdict, why = probe.verdict(GAINED | changed)
    assert verdict == said
    assert "%" in why


@pytest.mark.parametrize(
    ("gap_ci95", "said"), [([-0.2, -0.01], probe.REVERSED), ([-0.2, 0.01], probe.ALIKE)]
)
def test_an_amateur_that_solves_more_is_the_wrong_way_round(gap_ci95, said):
    verdict, why = probe.verdict(GAINED, {"gap": -0.1, "gap_ci95": gap_ci95})
    assert verdict == said
    assert ("10.0% below the amateur's" in why) == (said == probe.REVERSED)


def test_a_pair_of_one_tokenizer_has_nothing_to_tell():
    found = pair.compatibility(str(expert_path()), str(amateur_path()))
    assert found["shared_tokens"] > 500
    told = dict(pair.lines(found))
    assert told["special"] == told["template"] == "the same"
    assert told["end"] == "<|im_end|>"


def test_another_end_token_and_template_are_told_and_whose_is_used(tmp_path):
    amateur = tmp_path / "amateur"
    shutil.copytree(amateur_path(), amateur)
    for name in ("generation_config.json", "tokenizer_config.json"):
        file = amateur / name
        end = 0 if name.startswith("generation") else "<|endoftext|>"
        file.write_text(
            json.dumps(json.loads(file.read_text()) | {"eos_token": end, "eos_token_id": 0})
        )
    (amateur / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    told = dict(pair.lines(pair.compatibility(str(expert_path()), str(amateur))))
    assert told["end"].startswith("expert <|im_end|>, amateur <|endoftext|>; ")
    assert told["special"] == "eos_token: expert <|im_end|>, amateur <|endoftext|>"
    assert told["template"] == "the amateur has another; the expert's is used for both"
    (amateur / "chat_template.jinja").unlink()
    from lr_ray.models.models import load_tokenizer

    load_tokenizer.cache_clear()
    assert pair.compatibility(str(expert_path()), str(amateur))["chat_template"] == "none"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "demo", "--sampling.method", "rejection"], "sampling.method = rejection: a probe can read contrast alone"),
        (["--config", "demo", "--problems", "0"], "'0' is not a number of problems from 1"),
        (["--run", "{run}"], "no such run; give one that is there"),
    ],
)  # fmt: skip
def test_bad_uses_are_one_line(capsys, tmp_path, arguments, message):
    run = tmp_path / "run"
    given = [argument.format(run=run) for argument in arguments]
    assert (
        run_command(["probe", *given, *(["--run", str(run)] if "--run" not in given else [])]) == 2
    )
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said
    assert not run.exists()


def sampled(run: Run, answers: list[str | None]) -> list[str]:
    """A run that is sampled, of problems with these answers again and again; a probe's arguments for it."""
    asked = relabelling.config()
    relabelling.write(run, asked)
    part = finish(run, asked) | {"seconds": 6.0, "problems_timed": relabelling.PROBLEMS}
    run.write_json("summary.json", {"sampling": part, "seconds_total": 7.0})
    for name in run.shards("problems"):
        table = run.read_tables([name], PROBLEM)
        place = table.schema.get_field_index("answer")
        column = pa.array([answers[i % len(answers)] for i in range(len(table))], pa.string())
        run.write_table(name, table.set_column(place, PROBLEM.field(place), column))
    given = ["--config", "demo", "--run", run.location, "--problems", str(relabelling.PROBLEMS)]
    for name in ("top_k", "kl_threshold", "max_rejected"):
        given += [f"--sampling.{name}", str(getattr(asked.sampling, name))]
    return given


def test_a_finished_probe_is_looked_at_again_without_an_engine(tmp_path, capsys):
    asked, run = relabelling.config(), Run(str(tmp_path / "run"))
    given = sampled(run, [None])  # no model is asked
    assert run_command(["probe", *given, "--sampling.max_problems", "400"]) == 0
    told = capsys.readouterr().out
    found = run.read_json("probe.json")
    scores = run.read_tables(run.shards("scores"), SCORES)
    assert found["figures"] == probe.figures(scores, asked.sampling)
    assert told.splitlines()[-1] == f"verdict    {found['verdict']} ({found['why']})"
    assert "\naccuracy   not known, as no problem has an answer that can be graded\n" in told
    assert "\nsampling   400 problems: at most 60 s\ncost       0.017 CPU hours" in told
    run.write_json("summary.json", {"sampling": finish(run, asked), "seconds_total": 7.0})
    again = ["probe", *given, "--sampling.max_problems", "400"]
    assert run_command(again) == 0  # labelled again: the seconds of the probe before
    assert "\nsampling   400 problems: at most 60 s\n" in capsys.readouterr().out
    run.remove("probe.json")
    assert run_command(again) == 0
    assert "\nsampling   not measured: the scores were there\n" in capsys.readouterr().out
    assert (
        "hours, without sampling and training" in run.fs.cat_file(run.path("probe.html")).decode()
    )
    assert run_command(["probe", "--run", run.location]) == 2
    assert "--config: give that of the run to come" in capsys.readouterr().err


def test_a_probe_that_is_sampled_again_tells_its_own_seconds(tmp_path, capsys):
    run = Run(str(tmp_path / "run"))
    again = ["probe", *sampled(run, [None]), "--sampling.max_problems", "400"]
    assert run_command(again) == 0
    part = run.read_json("summary.json")["sampling"] | {"seconds": 14.0, "starting_seconds": 4.0}
    run.write_json(
        "summary.json", {"sampling": part, "seconds_total": 15.0}
    )  # shards of equal names
    capsys.readouterr()
    assert run_command(again) == 0
    assert "\nsampling   400 problems: at most 104 s\n" in capsys.readouterr().out


def test_seconds_of_answers_are_of_those_that_were_asked_for_in_them(tmp_path, capsys, monkeypatch):
    run = Run(str(tmp_path / "run"))
    given = [*sampled(run, ["12"]), "--evaluation.max_problems", "400"]
    difference = {"difference": 0.0, "difference_ci95": [0.0, 0.0]}
    found = {"problems": relabelling.PROBLEMS, "models": {}, "differences": {"amateur": difference}}

    def told(timed, seconds):
        evaluated = {
            "answers": 2 * relabelling.PROBLEMS,
            "answers_timed": timed,
            "seconds": seconds,
        }
        parts = {"accuracy": {"probe": found}, "evaluation": evaluated}
        monkeypatch.setattr(probing, "ask_models", lambda *_: parts)
        assert run_command(["probe", *given]) == 0
        return capsys.readouterr().out

    wanted = 6.0 * 800 / relabelling.PROBLEMS
    assert f"\nevaluation 800 answers: about {wanted:.0f} s\n" in told(relabelling.PROBLEMS, 6.0)
    assert f"\nevaluation 800 answers: about {wanted:.0f} s\n" in told(0, 0.1)  # all were there
    run.remove("probe.json")
    assert "\nevaluation " not in told(0, 0.1)


def test_answers_that_nothing_can_equal_are_not_asked_for(tmp_path, capsys):
    run = Run(str(tmp_path / "run"))
    given = sampled(run, ["twelve", "1/2"])  # of the demo, whose answers are whole numbers
    assert run_command(["probe", *given]) == 0
    assert (
        "\naccuracy   not known, as no problem has an answer that can be" in capsys.readouterr().out
    )
    sampled(run, ["twelve", "12", None, "7"])
    known, grader = _gradable(run, relabelling.config().data)
    assert (grader, {row["answer"] for row in known}) == ("demo", {"12", "7"})


def test_models_of_a_probe_share_a_gpu_where_the_runs_expert_will_carry_adapters(
    tmp_path, monkeypatch
):
    config = parse(
        "", ["--config", "qwen2.5-math-1.5b", "--data.source=demo", "--serving.adapters=true"]
    ).config
    run, asked = Run(str(tmp_path)), []
    row = {"problem_id": "a", "problem": "1+1?", "answer": "2", "metadata": None}
    run.write_table("problems/part-0.parquet", pa.Table.from_pylist([row], PROBLEM))
    card = Site(pretended(1, 80e9), find_models(config)[0])
    monkeypatch.setattr(probing, "site", lambda config, stages: nullcontext(card))

    def ask(job, paths, serve):
        asked.append((job.config, list(paths)))
        raise StageError("enough")

    monkeypatch.setattr(probing, "ask_models", ask)
    with pytest.raises(StageError, match="enough"):
        probing._ask(run, run.child("asked"), config, {"expert": "e", "amateur": "a"})
    [(arranged, labels)] = asked
    assert labels == ["expert", "amateur"]
    assert arranged.resources.server.gpus == 0.5  # a whole one each would be two GPUs
    assert needs.together(arranged, "evaluation")
    assert len(needs.demands(arranged, "evaluation")[0]["server"]) == 2


def test_a_grader_that_only_rows_name_and_is_none_is_of_the_data(tmp_path):
    run = Run(str(tmp_path))
    row = {"problem_id": "a", "problem": "?", "answer": "1", "metadata": '{"grader": "mine"}'}
    run.write_table("problems/part-0.parquet", pa.Table.from_pylist([row], PROBLEM))
    with pytest.raises(UserError, match=r"^data\.grader: no grader 'mine'"):
        _gradable(run, Data(source="x.jsonl"))


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"cost": 3, "accuracy": None},
        {"cost": {"probe_s": "x", "probe_problems": 1}, "accuracy": None},
        {"cost": {"probe_s": 1.0, "probe_problems": 1}, "accuracy": {"gap": 0.1}},
    ],
)
def test_a_probe_json_of_another_form_is_named_in_one_line(tmp_path, capsys, content):
    run = Run(str(tmp_path / "run"))
    given = sampled(run, [None])
    run.write_json("probe.json", content)
    assert run_command(["probe", *given]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{run.location}/probe.json: holds something else than lr_ray writes there" in said


def test_what_a_changed_setting_makes_stale_is_refused_without_naming_another_commands_option(
    tmp_path, capsys
):
    asked = relabelling.config()
    run = relabelling.write(Run(str(tmp_path / "run")), asked)
    run.write_json("summary.json", {"sampling": finish(run, asked), "seconds_total": 7.0})
    given = [
        "probe",
        "--config",
        "demo",
        "--run",
        run.location,
        "--problems",
        str(relabelling.PROBLEMS),
    ]
    for name in ("top_k", "kl_threshold", "max_rejected"):
        given += [f"--sampling.{name}", str(getattr(asked.sampling, name))]
    assert run_command([*given, "--sampling.kl_threshold", "0.9"]) == 2
    said = capsys.readouterr().err
    assert "give --yes for that, another --run to keep both, or the values in its run.json" in said
    run.write_bytes("checkpoints/x", b"")
    assert run_command([*given, "--training.seed", "7", "--yes"]) == 2
    said = capsys.readouterr().err
    assert "which this command does not do; give it to one that does, or another --run" in said
    assert "--from" not in said
