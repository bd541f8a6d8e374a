"""The sampling stage over real engines against the oracle, and what a shard must hold."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from lr_ray.embedded import generate
from lr_ray.method import oracle
from lr_ray.models.models import fingerprint, load_tokenizer, render_prompt, stop_token_ids
from lr_ray.pipeline.job import facts
from lr_ray.pipeline.sharing import can_share, share
from lr_ray.run.asked import begin
from lr_ray.run.schemas import REJECTED, SCORES, SUPERVISION
from lr_ray.run.stages import SAMPLING
from lr_ray.run.store import Run
from lr_ray.sampling import graph
from lr_ray.sampling.sample import finish
from tests.integration.conftest import AMATEUR, EXPERT, demo_config, sample_demo
from tests.integration.supervision import assert_same
from tests.unit.problem_sources import jsonl

TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def rows(sampled):
    table = sampled.run.read_tables(sampled.run.shards("supervision"), SUPERVISION)
    return {row["problem_id"]: row for row in table.to_pylist()}


@pytest.fixture(scope="module")
def solutions(sampled):
    torch.set_num_threads(1)
    expert, amateur = oracle.load(EXPERT), oracle.load(AMATEUR)
    tokenizer, stop = load_tokenizer(EXPERT), stop_token_ids(EXPERT)
    settings = sampled.config.sampling
    return {
        p["problem_id"]: oracle.solve(
            expert,
            amateur,
            render_prompt(tokenizer, p["problem"], None),
            stop,
            settings.max_new_tokens,
            settings.kl_threshold,
            settings.plausibility,
        )
        for p in generate("sampling", settings.max_problems)
    }


def test_every_problem_has_one_row_and_the_summary_counts_them(sampled, rows):
    assert len(rows) == sampled.summary["trajectories"] == 64
    assert sampled.summary["problems"] == 64
    assert sampled.summary["rejected"] == 0
    assert sampled.summary["steps_scored"] == sum(len(r["kl"]) for r in rows.values())
    assert sampled.summary["steps_kept"] == sum(len(r["steps"]) for r in rows.values())
    totals, facts, written = zip(*sampled.progress, strict=True)
    assert {name for name in written if name} == {
        name.partition("/")[2] for name in sampled.run.shards("supervision")
    }
    assert set(totals) == {64}
    assert [f.trajectories for f in facts] == sorted(f.trajectories for f in facts)
    assert asdict(facts[-1]).items() <= sampled.summary.items()


def test_summary_says_how_exact_the_rows_are(sampled):
    assert sampled.summary["exchange"] == {
        "expert": fingerprint(EXPERT),
        "top_k": 590,
        "expert_vocabulary": 590,
        "expert_dtype": "float32",
        "amateur_dtype": "float32",
        "head_dtype": "model",
    }
    assert 0 <= sampled.summary["largest_expert_residual"] < 1e-5
    assert sampled.summary["steps_completed"] == 0


def test_same_trajectories_kl_and_labels_as_the_oracle(rows, solutions):
    compared = labelled = 0
    for problem_id, solution in solutions.items():
        row = rows[problem_id]
        assert row["prompt_token_ids"] == solution.prompt
        assert row["completion_token_ids"] == solution.completion
        np.testing.assert_allclose(row["kl"], solution.kl, atol=TOLERANCE)
        compared += len(solution.kl)

        ours = {step["position"]: step for step in row["steps"]}
        theirs = {len(step.context) - len(solution.prompt): step for step in solution.kept}
        for position in set(ours) ^ set(theirs):
            assert solution.kl[position] == pytest.approx(0.1, abs=TOLERANCE)
        for position in set(ours) & set(theirs):
            label = dict(zip(ours[position]["token_ids"], ours[position]["weights"], strict=True))
            expected = dict(zip(theirs[position].token_ids, theirs[position].weights, strict=True))
            assert label == pytest.approx(expected, abs=TOLERANCE)
            labelled += 1
    assert compared > 1000
    assert labelled > 100


def test_labels_are_distributions_and_no_step_above_the_threshold_is_missing(sampled, rows):
    threshold = sampled.config.sampling.kl_threshold
    for row in rows.values():
        assert [s["position"] for s in row["steps"]] == [
            i for i, kl in enumerate(row["kl"]) if kl > threshold
        ]
        assert len(row["kl"]) == len(row["completion_token_ids"])
        for step in row["steps"]:
            assert sum(step["weights"]) == pytest.approx(1, abs=1e-5)
            assert min(step["weights"]) > 0


def rows_of(run: Run) -> list[dict]:
    return run.read_tables(run.shards("supervision"), SUPERVISION).to_pylist()


def test_eos_ends_trajectories_and_can_be_a_label(cut):
    (eos,) = stop_token_ids(EXPERT)
    finished = [r for r in rows_of(cut.run) if r["finish_reason"] == "stop"]
    assert len(finished) >= 14
    for row in finished:
        assert row["completion_token_ids"][-1] == eos
        last = row["steps"][-1]
        assert last["position"] == len(row["completion_token_ids"]) - 1
        assert eos in last["token_ids"]


def test_fewer_exchanged_tokens_give_a_lower_bound_and_the_same_labels(cut, rows):
    lower = same = longest = 0
    for row in rows_of(cut.run):
        full = rows[row["problem_id"]]
        assert row["completion_token_ids"] == full["completion_token_ids"]
        assert (np.array(row["kl"]) <= np.array(full["kl"]) + 1e-4).all()
        lower += (np.array(row["kl"]) < np.array(full["kl"]) - 1e-4).sum()
        whole = {step["position"]: step for step in full["steps"]}
        kept = {i for i, kl in enumerate(row["kl"]) if kl > 0.1}
        for step in (step for step in row["steps"] if step["position"] in kept | whole.keys()):
            label = dict(zip(step["token_ids"], step["weights"], strict=True))
            expected = whole[step["position"]]
            assert label == pytest.approx(
                dict(zip(expected["token_ids"], expected["weights"], strict=True)), abs=TOLERANCE
            )
            same += 1
            longest = max(longest, len(label))
    assert lower > 0
    assert same > 20
    assert longest > 2  # plausible sets beyond K were completed
    assert cut.summary["steps_completed"] > 5


def test_bad_rows_of_a_file_are_rejected_by_row_and_the_others_sampled(ray_cluster, tmp_path):
    good = [
        json.dumps({"id": p["problem_id"], "text": p["problem"]}) for p in generate("sampling", 110)
    ]
    text = json.loads(good[0])["text"]
    bad = {
        b"{not json": "JSON",
        b"[1, 2]": "object",
        b'{"id": "u", "text": "\xff\xfe"}': "UTF-8",
        b'{"id": "m"}': "text",
        b'{"id": "n", "text": null}': "null",
        b'{"id": "w", "text": 7}': "string",
        b'{"id": "e", "text": "  "}': "empty",
        good[1].encode(): "duplicate",
        json.dumps({"id": [1], "text": text}).encode(): "id",
        json.dumps(
            {"id": "l", "text": text * 40}
        ).encode(): "at most 72 leave room to answer; a larger sampling.max_model_len",
    }
    lines, expected = [line.encode() for line in good], {}
    for place, (line, reason) in enumerate((*bad.items(), *bad.items())):
        lines[5 * place + 10] = line  # the second round repeats ids as well
        expected[5 * place + 11] = reason
    file = tmp_path / "problems.jsonl"
    file.write_bytes(b"\n".join(lines))
    data = {"source": str(file), "fields": {"id": "id", "problem": "text"}}
    result = sample_demo(
        tmp_path / "run", data=data, max_problems=1000, max_rejected=0.2, max_model_len=200
    )
    table = result.run.read_tables(result.run.shards("rejected"), REJECTED)
    reasons = {row["row"]: row for row in table.to_pylist()}
    assert reasons.keys() == expected.keys()
    for row, reason in expected.items():
        assert reason in reasons[row]["reason"] or "duplicate" in reasons[row]["reason"]
        assert reasons[row]["file"] == str(file)
    assert result.summary["rejected"] == 20
    assert result.summary["trajectories"] == 90
    assert result.summary["problems"] == 110


def contents(run) -> dict:
    """Rows and footers of all shards, by name."""
    schemas = {"supervision": SUPERVISION, "rejected": REJECTED, "scores": SCORES}
    return {
        name: (run.read_tables([name], schema).to_pylist(), run.read_facts(name))
        for folder, schema in schemas.items()
        for name in run.shards(folder)
    }


def test_kept_trajectories_scored_again_give_the_same_rows_without_an_expert(
    sampled, tmp_path, monkeypatch
):
    """One shard is there before; the others are made of the trajectories."""
    monkeypatch.setattr(graph, "ExpertSampler", None)
    there = min(sampled.run.shards("supervision"))
    for name in (there, there.replace("supervision", "scores")):
        (tmp_path / name).parent.mkdir()
        shutil.copy(sampled.run.path(name), tmp_path / name)
    before = (tmp_path / there).stat().st_mtime_ns
    again = sample_demo(tmp_path, options={"trajectories": sampled.run})
    assert contents(again.run) == contents(sampled.run)
    assert [made.summary["problems_timed"] for made in (sampled, again)] == [64, 0]
    assert (sampled.summary["engines"].keys(), again.summary["engines"].keys()) == (
        {"expert", "amateur"}, {"amateur"}
    )  # fmt: skip
    for found in sampled.summary["engines"].values():
        assert found["most"] == 1
        assert 3e8 < found["host_bytes"] < 8e9  # with vLLM imported
    spent = {"seconds": 0, "starting_seconds": 0, "problems_timed": 0, "engines": {}}
    for made in (sampled, again):
        assert 1 < made.summary["starting_seconds"] < made.summary["seconds"]
    assert again.summary | spent == sampled.summary | spent
    assert (tmp_path / there).stat().st_mtime_ns == before


def test_relabelled_scores_equal_the_rows_that_were_sampled(sampled, tmp_path):
    begin(sampled.run, sampled.config, facts(sampled.config, EXPERT, AMATEUR))
    sampled.run.write_json("summary.json", {"sampling": sampled.summary})
    target = Run(str(tmp_path))
    assert can_share(sampled.run, sampled.config, {}) == list(SAMPLING)
    share(sampled.run, target, ["decoding", "scoring"])
    part = finish(target, sampled.config)
    assert contents(target) == contents(sampled.run)
    assert part["problems_timed"] == 0
    counts = part.keys() - {"seconds", "starting_seconds", "problems_timed"}
    assert {k: part[k] for k in counts} == {k: sampled.summary[k] for k in counts}


def test_two_engines_of_each_that_decode_first_and_score_after_give_the_same_rows(
    ray_cluster, sampled, tmp_path
):
    decoded = []
    options = {"on_decoded": lambda *seen: decoded.append(seen)}
    pool = {"min_engines": 2, "max_engines": 2}
    apart = sample_demo(
        tmp_path, options=options, resources={"sampling": "apart"}, batch_size=4,
        expert=pool, amateur=pool,
    )  # fmt: skip
    assert decoded[0] == (0, 64)
    assert decoded[-1] == (64, 64)
    assert apart.summary["problems_timed"] == 64
    assert apart.run.shards("trajectories") == []  # nobody asked to keep them
    assert_same(apart.run, sampled.run)


def test_a_share_of_a_batch_is_the_same_steps_for_three_engines_as_for_one(
    ray_cluster, sampled, tmp_path
):
    """Those of one engine are labelled again from its scores."""
    rule = {"selection": "top:0.1"}
    three = sample_demo(tmp_path / "three", expert={"min_engines": 3, "max_engines": 3}, **rule)
    one = Run(str(tmp_path / "one"))
    share(sampled.run, one, ["decoding", "scoring"])
    part = finish(one, demo_config(sampling={"max_problems": 64, "batch_size": 16} | rule))
    assert_same(three.run, one)
    scored, kept = (part[f"steps_{what}"] for what in ("scored", "kept"))
    assert abs(kept - scored / 10) <= 2  # a half a batch


def test_solutions_are_drawn_whatever_the_prompts_of_a_batch_take(ray_cluster, tmp_path):
    """More tokens of prompts than an engine reads at once: reading one in parts would end it."""
    rows = [{"problem": f"{n} pens and {n} pens. " * 40, "answer": "1"} for n in range(48)]
    data = {"source": jsonl(tmp_path / "long.jsonl", rows)}
    drawn = {"samples": 4, "temperature": 1.0, "max_new_tokens": 8}
    result = sample_demo(
        tmp_path / "run",
        data,
        {"amateur": None},
        method="rejection",
        batch_size=48,
        rejection=drawn,
    )
    assert (result.summary["samples_drawn"], result.summary["rejected"]) == (192, 0)
    said = [file.read_text(errors="replace") for file in Path(ray_cluster).glob("worker-*.err")]
    assert said
    assert not any("CPU Generator" in text for text in said)


def test_rejection_keeps_the_right_solutions(rejected):
    rows = rows_of(rejected.run)
    assert rejected.run.shards("scores") == []
    assert rejected.summary["samples_drawn"] == 72
    assert rejected.summary["problems"] == 24
    assert 24 < rejected.summary["samples_right"] >= rejected.summary["trajectories"]
    assert rejected.progress[-1][1].problems == 24
    key = lambda row: (row["problem_id"], row["completion_token_ids"])  # noqa: E731
    assert len(rows) == rejected.summary["trajectories"] == len({str(key(row)) for row in rows})
    answers = {p["problem_id"]: p["answer"] for p in generate("sampling", 24)}
    tokenizer = load_tokenizer(EXPERT)
    assert 8 < len({row["problem_id"] for row in rows}) < len(rows)
    for row in rows:
        text = tokenizer.decode(row["completion_token_ids"], skip_special_tokens=True)
        assert text.endswith(f"The answer is {answers[row['problem_id']]}.")
        assert row["completion_token_ids"][-1] == tokenizer.eos_token_id
        labels = [s["token_ids"] for s in row["steps"]]
        assert labels == [[token] for token in row["completion_token_ids"]]
