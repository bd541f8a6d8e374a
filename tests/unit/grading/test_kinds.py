"""Kinds of answers that are easily misread or misjudged; the cases are in `kinds` and answers.jsonl."""

import json
import os
from pathlib import Path

import pytest

from lr_ray.grading.judging import judge
from lr_ray.grading.reading import extract_answer
from tests.unit.grading.kinds import CHOICE, MATH, Case

CASES = Path(
    os.environ.get("LR_RAY_CASES") or Path(__file__).resolve().parents[3] / "../shared/cases"
)


def listed(kinds: dict[str, list[Case]]) -> list:
    return [
        pytest.param(case, id=f"{kind}: {case.expected} | {case.completion}")
        for kind, cases in kinds.items()
        for case in cases
    ]


def check(case: Case, kind: str, cut: bool = False) -> None:
    extracted = extract_answer(case.completion, kind, cut)
    verdict = judge(case.expected, extracted, kind)
    assert verdict.correct == case.right, f"read {extracted!r}, {verdict.how}"


@pytest.mark.parametrize("case", listed(MATH))
def test_an_answer_is_judged_as_a_careful_person_would(case):
    check(case, "math")


@pytest.mark.parametrize("case", listed(CHOICE))
def test_a_choice_is_judged_as_a_careful_person_would(case):
    check(case, "choice")


def test_more_answers_are_judged_as_a_careful_person_would():
    path = Path(__file__).with_name("answers.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    wrong = []
    for row in rows:
        extracted = extract_answer(row["completion"], row["kind"], row.get("cut", False))
        if judge(row["expected"], extracted, row["kind"]).correct != row["right"]:
            wrong.append((row["expected"], row["completion"], extracted))
    assert len(rows) > 500
    assert not wrong


@pytest.mark.parametrize("kind", [*MATH, *CHOICE])
def test_each_kind_has_answers_that_are_right_and_that_are_wrong(kind):
    cases = (MATH | CHOICE)[kind]
    assert len(cases) >= 10
    assert {case.right for case in cases} == {True, False}


@pytest.mark.skipif(
    not (CASES / "grading.jsonl").is_file(),
    reason=f"no {CASES}/grading.jsonl; set LR_RAY_CASES to a folder that has it",
)
def test_answers_that_were_once_misjudged_are_judged_right():
    lines = (CASES / "grading.jsonl").read_text(encoding="utf-8").splitlines()
    wrong = []
    for row in map(json.loads, lines):
        extracted = extract_answer(row["completion"], row["kind"], row["cut"])
        if judge(row["expected"], extracted, row["kind"]).correct != row["right"]:
            wrong.append((row["id"], row["expected"], extracted))
    assert lines
    assert not wrong
