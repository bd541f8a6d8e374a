"""The sampling stage over real engines against the oracle, and what a shard must hold."""

import json
from dataclasses import asdict

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
from tests.integration.conftest import AMATEUR, EXPERT, sample_demo

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
    totals, facts = zip(*sampled.progress, strict=True)
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


def test_eos_ends_trajectories_and_can_be_a_label(sampled, tmp_path):
    everything = sample_demo(tmp_path, kl_threshold=0.0, max_problems=16)
    (eos,) = stop_token_ids(EXPERT)
    table = everything.run.read_tables(everything.run.shards("supervision"), SUPERVISION)
    finished = [r for r in table.to_pylist() if r["finish_reason"] == "stop"]
    assert len(finished) >= 14
    for row in finished:
        assert row["completion_token_ids"][-1] == eos
        last = row["steps"][-1]
        assert last["position"] == len(row["completion_token_ids"]) - 1
        assert eos in last["token_ids"]


@pytest.mark.parametrize("top_k", [2, 16])
def test_fewer_exchanged_tokens_give_a_lower_bound_and_the_same_labels(
    ray_cluster, tmp_path, rows, top_k
):
    cut = sample_demo(tmp_path, top_k=top_k, max_problems=16)
    table = cut.run.read_tables(cut.run.shards("supervision"), SUPERVISION)
    lower = same = longest = 0
    for row in table.to_pylist():
        full = rows[row["problem_id"]]
        assert row["completion_token_ids"] == full["completion_token_ids"]
        assert (np.array(row["kl"]) <= np.array(full["kl"]) + 1e-4).all()
        lower += (np.array(row["kl"]) < np.array(full["kl"]) - 1e-4).sum()
        whole = {step["position"]: step for step in full["steps"]}
        for step in row["steps"]:
            label = dict(zip(step["token_ids"], step["weights"], strict=True))
            expected = whole[step["position"]]
            assert label == pytest.approx(
                dict(zip(expected["token_ids"], expected["weights"], strict=True)), abs=TOLERANCE
            )
            same += 1
            longest = max(longest, len(label))
    assert lower > 0
    assert same > 20
    if top_k == 2:  # plausible sets beyond K were completed
        assert longest > 2
        assert cut.summary["steps_completed"] > 5


def test_finished_shards_are_kept_and_missing_ones_made(sampled, rows):
    run = sampled.run
    names = run.shards("supervision")
    before = {name: run.fs.modified(run.path(name)) for name in names}
    run.fs.rm(run.path(names[0]))
    sample_demo(run.root)
    after = {name: run.fs.modified(run.path(name)) for name in run.shards("supervision")}
    assert set(after) == set(before)
    assert [n for n in names if after[n] != before[n]] == names[:1]
    table = run.read_tables(run.shards("supervision"), SUPERVISION)
    remade = {row["problem_id"]: row for row in table.to_pylist()}
    assert remade.keys() == rows.keys()
    for problem_id, row in remade.items():
        assert row["completion_token_ids"] == rows[problem_id]["completion_token_ids"]
        np.testing.assert_allclose(row["kl"], rows[problem_id]["kl"], atol=1e-5)


@pytest.mark.parametrize(("engines", "batch_size"), [(2, 4), (1, 64)])
def test_number_of_engines_and_batch_size_change_no_row(
    ray_cluster, tmp_path, rows, engines, batch_size
):
    pool = {"min_engines": engines, "max_engines": engines}
    other = sample_demo(tmp_path, batch_size=batch_size, expert=pool, amateur=pool)
    table = other.run.read_tables(other.run.shards("supervision"), SUPERVISION).to_pylist()
    assert len(table) == len(rows) == 64
    for row in table:
        expected = rows[row["problem_id"]]
        assert row["completion_token_ids"] == expected["completion_token_ids"]
        np.testing.assert_allclose(row["kl"], expected["kl"], atol=1e-5)
        assert [s["position"] for s in row["steps"]] == [s["position"] for s in expected["steps"]]


def test_bad_rows_of_a_file_are_rejected_by_row_and_the_others_sampled(ray_cluster, tmp_path):
    good = [
        json.dumps({"id": p["problem_id"], "text": p["problem"]}) for p in generate("sampling", 500)
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
        json.dumps({"id": "l", "text": text * 40}).encode(): "leave room to answer",
    }
    lines, expected = [line.encode() for line in good], {}
    for place, (line, reason) in enumerate((*bad.items(), *bad.items())):
        lines[20 * place + 10] = line  # the second round repeats ids as well
        expected[20 * place + 11] = reason
    file = tmp_path / "problems.jsonl"
    file.write_bytes(b"\n".join(lines))
    data = {"source": str(file), "fields": {"id": "id", "problem": "text"}}
    result = sample_demo(tmp_path / "run", data=data, max_problems=1000, batch_size=64)
    table = result.run.read_tables(result.run.shards("rejected"), REJECTED)
    reasons = {row["row"]: row for row in table.to_pylist()}
    assert reasons.keys() == expected.keys()
    for row, reason in expected.items():
        assert reason in reasons[row]["reason"] or "duplicate" in reasons[row]["reason"]
        assert reasons[row]["file"] == str(file)
    assert result.summary["rejected"] == 20
    assert result.summary["trajectories"] == 480
    assert result.summary["problems"] == 500


def test_problems_without_room_are_rejected_with_a_reason(ray_cluster, tmp_path):
    result = sample_demo(tmp_path, max_problems=8, max_new_tokens=464, max_rejected=1.0)
    rejected = result.run.read_tables(result.run.shards("rejected"), REJECTED)
    assert 0 < result.summary["rejected"] == rejected.num_rows
    assert "leave room to answer" in rejected["reason"][0].as_py()
    assert result.summary["trajectories"] + rejected.num_rows == 8


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
    monkeypatch.setattr(graph, "ExpertSampler", None)
    again = sample_demo(tmp_path, options={"trajectories": sampled.run})
    assert contents(again.run) == contents(sampled.run)
    assert again.summary | {"seconds": 0} == sampled.summary | {"seconds": 0}
    before = {n: again.run.fs.modified(again.run.path(n)) for n in again.run.shards("supervision")}
    again.run.remove(min(before))
    sample_demo(tmp_path, options={"trajectories": sampled.run})
    after = {n: again.run.fs.modified(again.run.path(n)) for n in again.run.shards("supervision")}
    assert [name for name in before if after[name] != before[name]] == [min(before)]
    assert contents(again.run) == contents(sampled.run)


def test_relabelled_scores_equal_the_rows_that_were_sampled(sampled, tmp_path):
    begin(sampled.run, sampled.config, facts(sampled.config, EXPERT, AMATEUR))
    sampled.run.write_json("summary.json", {"sampling": sampled.summary})
    target = Run(str(tmp_path))
    assert can_share(sampled.run, sampled.config, {}) == list(SAMPLING)
    share(sampled.run, target, ["decoding", "scoring"])
    part = finish(target, sampled.config)
    assert contents(target) == contents(sampled.run)
    counts = part.keys() - {"seconds"}
    assert {k: part[k] for k in counts} == {k: sampled.summary[k] for k in counts}


def test_decoding_first_and_scoring_after_gives_the_same_rows(ray_cluster, sampled, rows, tmp_path):
    decoded = []
    options = {"on_decoded": lambda *seen: decoded.append(seen)}
    apart = sample_demo(tmp_path, options=options, resources={"sampling": "apart"})
    assert decoded[0] == (0, 64)
    assert decoded[-1] == (64, 64)
    assert apart.run.shards("trajectories") == []  # nobody asked to keep them
    table = apart.run.read_tables(apart.run.shards("supervision"), SUPERVISION).to_pylist()
    assert {row["problem_id"] for row in table} == rows.keys()
    for row in table:
        other = rows[row["problem_id"]]
        assert row["completion_token_ids"] == other["completion_token_ids"]
        np.testing.assert_allclose(row["kl"], other["kl"], atol=1e-5)


def test_rejection_keeps_the_right_solutions_whatever_the_batches(ray_cluster, tmp_path):
    asked = {"method": "rejection", "max_problems": 24, "rejection": {"samples": 3}}
    found = []
    for batch_size in (24, 5):
        folder = tmp_path / str(batch_size)
        sampled = sample_demo(folder, options={"amateur": None}, batch_size=batch_size, **asked)
        table = sampled.run.read_tables(sampled.run.shards("supervision"), SUPERVISION)
        found.append(table.sort_by("problem_id").to_pylist())
        assert sampled.run.shards("scores") == []
        assert sampled.summary["samples_drawn"] == 72
        assert sampled.summary["problems"] == 24
        assert 24 < sampled.summary["samples_right"] >= sampled.summary["trajectories"]
        assert sampled.progress[-1][1].problems == 24
    rows, others = found
    key = lambda row: (row["problem_id"], row["completion_token_ids"])  # noqa: E731
    assert sorted(map(key, rows)) == sorted(map(key, others))
    assert len(rows) == sampled.summary["trajectories"] == len({str(key(row)) for row in rows})
    answers = {p["problem_id"]: p["answer"] for p in generate("sampling", 24)}
    tokenizer = load_tokenizer(EXPERT)
    assert 8 < len({row["problem_id"] for row in rows}) < len(rows)
    for row in rows:
        text = tokenizer.decode(row["completion_token_ids"], skip_special_tokens=True)
        assert text.endswith(f"The answer is {answers[row['problem_id']]}.")
        assert row["completion_token_ids"][-1] == tokenizer.eos_token_id
        labels = [s["token_ids"] for s in row["steps"]]
        assert labels == [[token] for token in row["completion_token_ids"]]
