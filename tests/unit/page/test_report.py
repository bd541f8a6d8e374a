"""What the page of a run says, read without a browser."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest

from lr_ray.errors import UserError
from lr_ray.report import write_page
from lr_ray.report.page import answers
from lr_ray.report.page.source import Source
from lr_ray.run.schemas import SCORES, SUPERVISION
from lr_ray.run.store import Run, shaped
from tests.made_up import OPENING, THRESHOLD, made_up
from tests.unit.page.dom import answers_in, by_id, of_class, read, said, table


@pytest.fixture(scope="module")
def root(page_file):
    return read(page_file.read_text())


@pytest.fixture(scope="module")
def scored(made) -> tuple[dict, dict]:
    """KL of every step and kept positions, by problem, as the run's own files have them."""
    run, _ = made
    scores = run.read_tables(run.shards("scores"), SCORES).to_pylist()
    rows = run.read_tables(run.shards("supervision"), SUPERVISION).to_pylist()
    return {r["problem_id"]: r["kl"] for r in scores}, {
        r["problem_id"]: {step["position"] for step in r["steps"]} for r in rows
    }


def trajectories(root) -> dict[str, list]:
    boxes = [e for e in root.iter() if e.get("role") == "listbox"]
    return {e.get("aria-label").split()[2].rstrip(","): list(e) for e in boxes}


def test_every_section_is_there_once_and_in_the_contents(root):
    names = [section.get("id") for section in root.iter("section")]
    assert names == [
        "outcome",
        "contrast",
        "kept",
        "training",
        "answers",
        "cost",
        "asked",
        "reproduce",
    ]
    assert [a.get("href") for a in next(root.iter("nav"))] == [f"#{name}" for name in names]


def test_the_file_needs_no_other(root, page_file):
    assert [e.tag for e in root.iter() if e.get("src") or e.tag in ("link", "img", "iframe")] == []
    assert "://" not in page_file.read_text()
    assert all(a.get("href").startswith("#") for a in root.iter("a"))


def test_every_id_is_one_elements_and_what_is_referred_to_is_there(root):
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    names = ("aria-labelledby", "aria-describedby")
    assert {e.get(n) for e in root.iter() for n in names if e.get(n)} <= set(ids)


def test_the_outcome_is_said_in_a_sentence(root, made):
    part = made[1]["accuracy"]["demo"]["differences"]["improved"]
    lead = said(of_class(by_id(root, "outcome"), "lead")[0])
    assert lead.startswith("demo: expert 40.0% right, improved 60.0%: +20.0 points")
    assert f"{part['gained']} gained, {part['lost']} lost" in lead
    assert "The interval holds 0" in lead


def test_every_token_carries_its_kl_and_kept_ones_are_marked(root, scored):
    kl, kept = scored
    found = trajectories(root)
    assert len(found) == 24
    for problem_id, tokens in found.items():
        assert [float(t.get("data-kl")) for t in tokens] == pytest.approx(kl[problem_id], abs=1e-3)
        marked = {i for i, t in enumerate(tokens) if "kept" in t.get("class").split()}
        assert (
            marked == kept[problem_id] == {i for i, v in enumerate(kl[problem_id]) if v > THRESHOLD}
        )


def test_trajectories_go_from_the_most_kept_steps_to_the_fewest(root, scored):
    counts = [
        sum("kept" in t.get("class") for t in tokens) for tokens in trajectories(root).values()
    ]
    assert counts == sorted(counts, reverse=True)
    every = [len(positions) for positions in scored[1].values()]
    assert (counts[0], counts[-1]) == (max(every), min(every))


def test_tokens_that_are_parts_of_a_character_give_its_text_once(root):
    for tokens in trajectories(root).values():
        text = "".join(t.text for t in tokens)
        assert text.replace("\u25cc", "").startswith(OPENING)
        assert "\u25cc" in text
        assert "\ufffd" not in text


def test_a_darker_token_has_a_larger_kl(root):
    grades = {}
    for tokens in trajectories(root).values():
        for t in tokens:
            grade = next(
                (int(c[1]) for c in t.get("class").split() if c[0] == "k" and c != "kept"), 0
            )
            grades.setdefault(grade, []).append(float(t.get("data-kl")))
    ends = [(min(grades[g]), max(grades[g])) for g in sorted(grades)]
    assert len(ends) > 3
    assert all(high <= low + 1e-3 for (_, high), (low, _) in itertools.pairwise(ends))


def test_details_hold_both_models_probabilities_and_the_label(root, made):
    run, _ = made
    details = json.loads(by_id(root, "contrast-data").text)
    rows = {r["problem_id"]: r for r in run.read_tables(run.shards("scores"), SCORES).to_pylist()}
    for (problem_id, tokens), steps in zip(trajectories(root).items(), details, strict=True):
        assert len(steps) == len(tokens)
        for token, (_, *shown), plausible in zip(
            tokens, steps, rows[problem_id]["plausible"], strict=True
        ):
            p, q = (np.exp(plausible[f"{role}_logprobs"]) for role in ("expert", "amateur"))
            assert [row[1:3] for row in shown] == [[pytest.approx(a, abs=1e-4), pytest.approx(b, abs=1e-4)] for a, b in zip(p, q, strict=True)]  # fmt: skip
            label = sum(row[3] for row in shown)
            assert label == pytest.approx(1 if "kept" in token.get("class") else 0, abs=1e-3)


def test_other_thresholds_are_counted_and_the_runs_own_is_marked(root, scored):
    kl = np.concatenate([np.array(v) for v in scored[0].values()])
    found = table(root, "What other thresholds")[1:]
    by = {float(row[0]): row for row in found}
    assert {0.2, 0.3, 0.4} <= set(by)
    for threshold, row in by.items():
        assert int(row[1].replace("\u202f", "")) == (kl > threshold).sum()
    (own,) = of_class(by_id(root, "kept"), "own")
    assert said(own[0]) == f"{THRESHOLD}"


def test_what_labels_prefer_is_counted(root, made):
    run, _ = made
    otherwise = kept = 0
    for row in run.read_tables(run.shards("supervision"), SUPERVISION).to_pylist():
        for step in row["steps"]:
            kept += 1
            top = step["token_ids"][int(np.argmax(step["weights"]))]
            otherwise += top != row["completion_token_ids"][step["position"]]
    assert 0 < otherwise < kept
    lead = said(of_class(by_id(root, "kept"), "lead")[0])
    assert f"The label of {otherwise / kept:.1%} of them prefers another token" in lead
    listed = table(root, "Most frequent replacements")[1:]
    assert listed
    assert all(taken != preferred for taken, preferred, _ in listed)


def test_every_chart_says_what_it_shows(root):
    charts = of_class(root, "chart")
    assert len(charts) >= 9
    assert all(svg.get("role") == "img" and len(svg.get("aria-label")) > 20 for svg in charts)


def test_training_says_where_it_was_resumed_and_a_mean_of_the_loss(root):
    text = said(by_id(root, "training"))
    assert "resumed after optimizer step 25" in text
    assert "Mean loss of the first 20 batches 0.8" in text


def spoilt(field: str, value) -> bytes:
    """A line of metrics.jsonl with one other value."""
    fields = ("loss", "label_entropy", "kept_steps", "tokens", "seconds", "resumed_at")
    return json.dumps(dict.fromkeys(fields, 1) | {field: value}).encode()


@pytest.mark.parametrize(
    "content", [b'{"loss": 0.5\n', b"[1]\n", b"3", b"\xff", b"{}", spoilt("loss", "x"), spoilt("kept_steps", 0)]
)  # fmt: skip
def test_metrics_of_another_form_are_named_in_one_line(tmp_path, content):
    run = Run(str(tmp_path))
    summary = made_up(run, problems=4, trajectories=3)
    run.write_bytes("metrics.jsonl", content)
    said = rf"^{run.location}/metrics\.jsonl: "
    with pytest.raises(UserError, match=said) as error, shaped(run.location, "summary.json"):
        write_page(run, summary)
    assert "\n" not in str(error.value)
    run.write_bytes("metrics.jsonl", spoilt("loss", 0.5))
    write_page(run, summary)
    run.remove("metrics.jsonl")
    write_page(run, summary)


def test_all_answers_are_in_the_page_and_a_lost_one_is_shown_without_the_script(root, made):
    (task,) = answers_in(root)
    wanted = Source(*made).tables["demo"].to_pylist()
    for row, its in zip(task["rows"], wanted, strict=True):
        assert row[:3] == [its["problem_id"], its["problem"], its["expected"]]
        assert row[5][0] == its["improved_completion"]
        assert row[4][2] == its["expert_correct"]
    shown = [said(h) for a in by_id(root, "answers-list") for h in a.iter("h3")]
    assert shown[0].startswith("lost: right before, wrong after")
    assert any(s.startswith("gained") for s in shown)
    first = [said(h) for h in by_id(root, "answers-list")[0].iter("h4")]
    assert [label.split(",")[0] for label in first] == ["expert: right", "improved: wrong"]
    assert table(root, "Problems by what")[1:] == [["demo", "improved", "16", "8", "8", "8"]]


def test_how_it_was_asked_is_a_whole_prompt_with_stops_as_text(root):
    text = "".join(by_id(root, "asked").itertext())
    assert "<|im_start|>user\n<i>0</i>?" in text
    assert "<|im_start|>assistant" in text
    assert "tokens that end an answer<|im_end|>" in "".join(text.split("\n")).replace(
        "</dt><dd>", ""
    )
    assert "[2]" not in text


def test_the_command_names_what_differs_from_the_preset(root):
    part = by_id(root, "reproduce")
    command = said(next(part.iter("pre")))
    assert command.startswith("lr-ray run --config demo --run ")
    assert command.endswith(f"--sampling.kl_threshold {THRESHOLD}")
    assert table(part, "Settings that")[1:] == [["sampling.kl_threshold", "0.1", "0.3"]]


def test_a_sampled_run_has_the_sections_it_has_data_for(tmp_path):
    run = Run(str(tmp_path))
    summary = made_up(run, problems=4, trajectories=3)
    write_page(run, {"sampling": summary["sampling"]})
    names = [s.get("id") for s in read((tmp_path / "report.html").read_text()).iter("section")]
    assert names == ["contrast", "kept", "cost", "asked", "reproduce"]


def test_without_the_experts_tokenizer_the_rest_is_still_shown(tmp_path):
    run = Run(str(tmp_path))
    summary = made_up(run, problems=4, trajectories=3)
    asked = run.read_json("run.json")
    asked["models"]["expert"]["path"] = "/no/such/model"
    run.write_json("run.json", asked)
    write_page(run, summary)
    root = read((tmp_path / "report.html").read_text())
    names = [s.get("id") for s in root.iter("section")]
    assert "contrast" not in names
    assert {"kept", "answers", "asked"} <= set(names)
    assert "[user]" in said(by_id(root, "asked"))


def test_texts_are_shortened_until_they_fit_those_that_changed_last(monkeypatch):
    rng = np.random.default_rng(0)
    text = lambda: "".join(map(chr, rng.integers(33, 126, 3000)))  # noqa: E731
    rows = []
    for i in range(40):
        first, other = [text(), "1", True, "", "stop"], [text(), "1", i > 3, "", "stop"]
        rows.append([f"p{i}", "?", "1", 0, first, other])
    monkeypatch.setattr(answers, "_BUDGET", 60_000)
    packed, limit = answers._packed({"t": rows}, {"t": ["a", "b"]})
    assert limit == 300
    assert len(packed) <= 60_000
    document = read(f'<!doctype html>\n<p id="answers-data">{packed}</p>')
    (task,) = answers_in(document)
    assert len(task["rows"][0][4][0]) == pytest.approx(4 * limit, abs=20)
    assert len(task["rows"][9][4][0]) == pytest.approx(limit, abs=20)
    assert task["rows"][9][4][0][:100] == rows[9][4][0][:100]
    assert task["rows"][9][4][0][-100:] == rows[9][4][0][-100:]


def test_nothing_right_points_at_the_wrong_answers(tmp_path):
    run = Run(str(tmp_path))
    summary = made_up(run, problems=8, trajectories=2)
    table = Source(run, summary).tables["demo"]
    for label in ("expert", "improved"):
        place = table.schema.get_field_index(f"{label}_correct")
        table = table.set_column(place, f"{label}_correct", pa.array([False] * 8))
        summary["accuracy"]["demo"]["models"][label]["accuracy"] = 0.0
    run.write_table("evaluation/demo.parquet", table)
    write_page(run, summary)
    root = read((tmp_path / "report.html").read_text())
    assert "Nearly nothing is right" in said(by_id(root, "outcome"))
    assert "held out" not in said(by_id(root, "outcome"))
    assert [said(h)[:5] for h in by_id(root, "answers-list").iter("h3")] == ["wrong"] * 3


def test_perturbed_problems_and_drift_are_shown_where_they_were_asked_for(made, root, tmp_path):
    assert not {"perturbed", "drift"} & {section.get("id") for section in root.iter("section")}
    gain = {"difference": 0.055, "difference_ci95": [0.025, 0.09]}
    model = {
        "original": 0.5,
        "accuracy": 0.4,
        "survive": None,
        "difference": -0.1,
        "difference_ci95": [-0.2, 0.0],
    }
    figures = {
        "kl": 0.188,
        "perplexity": 12.5,
        "entropy": None,
        "right_perplexity": {"expert": 1.25, "improved": None},
    }
    run = Run(str(tmp_path))
    summary = made_up(run, problems=20)
    summary["perturbations"] = {
        "demo": {
            "typos": {
                "problems": 9, "of": 20, "models": {"expert": model, "improved": model},
                "differences": {"improved": gain},
            },
            "units": {"problems": 0, "of": 20, "models": {}, "differences": {}},
        }
    }  # fmt: skip
    summary["drift"] = {
        "texts": 900, "answers": {"expert": 70, "improved": 80}, "models": {"expert": figures, "improved": figures}
    }  # fmt: skip
    found = summary["accuracy"]["demo"]["differences"]["improved"]
    found |= {"pass_at_k": {"8": gain}, "majority": gain}
    write_page(run, summary)
    page = read((tmp_path / "report.html").read_text())
    perturbed = table(by_id(page, "perturbed"), "demo")
    changed = ["typos (9 of 20)", "improved", "50.0%", "40.0%", "-10.0 [-20.0, +0.0]", ""]
    assert perturbed[2] == [*changed, "+5.5 [+2.5, +9.0]"]
    assert perturbed[3][:2] == ["units (0 of 20)", "safe on no problem"]
    drift = by_id(page, "drift")
    more = ["demo", "improved", "pass@8", "+5.5 [+2.5, +9.0]"]
    assert table(drift, "The gain by the number of tries")[1] == more
    moved = table(drift, "How far the model moved")
    assert moved[2] == ["improved", "0.188", "12.5", "-", "1.25", "-"]
