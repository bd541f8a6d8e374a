"""A probe of the embedded pair, as a person runs it."""

import json

import pyarrow.parquet as pq
import pytest

from lr_ray.config import merge, read_tree, resolve
from lr_ray.grading.reading import extract_answer
from lr_ray.pipeline.sharing import can_share
from lr_ray.problems import PROBLEM
from lr_ray.report.probe import APART, THRESHOLDS
from lr_ray.run.store import Run
from tests.integration.jobs import run_here
from tests.ports import free_port

PROBLEMS = 16


def test_a_probe_tells_what_its_scores_say_and_leaves_a_run(ray_cluster, tmp_path):
    folder = tmp_path / "probe"
    asked = (
        "--config",
        "demo",
        "--run",
        str(folder),
        "--problems",
        str(PROBLEMS),
        f"--serving.port={free_port()}",
    )
    ended = run_here("probe", *asked)
    assert ended.returncode == 0, ended.stderr
    run, found = Run(str(folder)), json.loads((folder / "probe.json").read_text())
    summary = run.read_json("summary.json")
    figures, part = found["figures"], summary["sampling"]
    assert ended.stdout.splitlines()[-1] == f"verdict    {found['verdict']} ({found['why']})"
    assert figures["trajectories"] == part["trajectories"] == PROBLEMS
    assert figures["steps"] == part["steps_scored"]
    assert figures["steps_kept"] == part["steps_kept"] > 0
    low, high = figures["kept_ci95"]
    assert 0 < low < figures["kept"] < high < 1
    at = figures["thresholds"][THRESHOLDS.index(APART)]
    assert at["steps_kept"] == figures["steps_kept"]  # the demo's threshold
    assert figures["apart"] == at["kept"] == figures["kept"]
    assert 0 < figures["disagreement"] == at["disagreement"] < 1
    assert 0 < figures["entropy"]["mean"] < figures["entropy"]["0.99"]
    cost, known = found["cost"], found["accuracy"]
    started = part["starting_seconds"]
    scaled = started + (part["seconds"] - started) * 500 / PROBLEMS
    assert cost["sampling_s"] == pytest.approx(scaled)
    assert cost["evaluation_s"] == pytest.approx(known["seconds"] * 1000 / PROBLEMS)
    hours = cost["sampling_s"] * (0.5 + 0.5) + cost["evaluation_s"] * (0.5 + 0.5)
    assert cost["hours"] == pytest.approx(hours / 3600)
    assert cost["hours_of"] == "CPU"

    # Both models' answers, read as a person does.
    answers = pq.read_table(folder / "asked/evaluation/probe.parquet").to_pylist()
    problems = run.read_tables(run.shards("problems"), PROBLEM).to_pylist()
    expected = {row["problem_id"]: row["answer"] for row in problems}
    assert {row["problem_id"] for row in answers} == expected.keys()
    for label, model in known["models"].items():
        right = sum(
            extract_answer(row[f"{label}_completion"], "demo") == expected[row["problem_id"]]
            for row in answers
        )
        assert model["accuracy"] == pytest.approx(right / PROBLEMS)
    expert, amateur = (known["models"][label]["accuracy"] for label in ("expert", "amateur"))
    assert known["gap"] == pytest.approx(expert - amateur)
    assert known["gap_ci95"][0] < known["gap"] < known["gap_ci95"][1]
    assert 0 < expert < 1

    # Its scores serve another run of as many problems, and it does not sample them again itself.
    other = {"sampling": {"max_problems": PROBLEMS, "kl_threshold": 0.3}}
    config = resolve(merge(read_tree("demo"), other))
    assert can_share(run, config, {}) == ["decoding", "scoring"]
    kept = [f"asked/{name}" for name in run.child("asked").shards("answers")]
    assert kept
    names = [*run.shards("scores"), *kept]
    written = {name: (folder / name).stat().st_mtime_ns for name in names}
    again = run_here("probe", *asked)
    assert again.returncode == 0, again.stderr
    assert "serving" not in again.stdout
    assert {name: (folder / name).stat().st_mtime_ns for name in names} == written
    refused = run_here("probe", "--run", str(folder))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--config: give that of the run to come" in refused.stderr
    stale = run_here("probe", *asked, "--sampling.kl_threshold", "0.3")
    assert stale.returncode == 2
    assert "give --yes" in stale.stderr
    again = run_here("probe", *asked, "--sampling.kl_threshold", "0.3", "--yes")
    assert again.returncode == 0, again.stderr
    assert "serving" not in again.stdout
    assert {name: (folder / name).stat().st_mtime_ns for name in names} == written
    again = json.loads((folder / "probe.json").read_text())
    assert again["cost"] == cost
    changed = again["figures"]
    assert changed["steps_kept"] == figures["thresholds"][THRESHOLDS.index(0.3)]["steps_kept"]


@pytest.mark.long
def test_an_amateur_that_is_the_expert_is_too_close(ray_cluster, tmp_path):
    asked = (
        "--config",
        "demo",
        "--run",
        str(tmp_path / "run"),
        "--problems",
        "4",
        f"--serving.port={free_port()}",
    )
    ended = run_here("probe", *asked, "--models.amateur", "embedded:expert")
    assert ended.returncode == 0, ended.stderr
    assert "\nlabels     none\n" in ended.stdout
    verdict = "verdict    nothing to teach: too close (0.0% of the steps above 0.1 nats,"
    assert ended.stdout.splitlines()[-1].startswith(verdict)
