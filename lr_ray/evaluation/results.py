"""Figures of the graded tables: accuracies, paired differences, and the problems that changed.

pytest tests/unit/test_results.py
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lr_ray.errors import StageError
from lr_ray.evaluation.statistics import (
    accuracy_interval,
    macro_difference,
    mcnemar_p,
    paired_difference,
    pass_at_k,
)
from lr_ray.grading.latex import key, tidy
from lr_ray.grading.others import OTHERS, OURS

LABELS = ("expert", "improved")  # of a pipeline's run
MEANS = ("accuracy_mean", "accuracy_mean_paper")  # parts of summary.json: see `macro`
# Columns of a task's table, and those of each model behind its label.
SHARED = ("problem_id", "problem", "expected", "sample")
PARTS = ("completion", "answer", "correct", "verdict", "finish_reason")
Scores = npt.NDArray[np.float64]


def summarise(table: pa.Table, labels: Sequence[str], seed: int) -> dict[str, Any]:
    """`problems`, `samples`, `models.<label>` and, against the first label, `differences.<label>`.

    A model's figures are fractions of its answers: accuracy with its 95 % interval, answered (an
    answer could be read), cut (by the limit on tokens) and refused (by the endpoint); with several
    samples also pass_at_k and majority; and characters, the mean length of an answer. A difference has its
    interval, the problems gained and lost, and the exact McNemar p (one sample only); with several
    samples also those of pass_at_k and majority, each with difference and difference_ci95. A pipeline's
    run has expert, improved, difference and difference_ci95 beside them. Where other graders were asked,
    `graders.<label>` has the accuracy by each, and `graders_disagree` the number of answers on which one
    differs from the table's verdict.
    """
    samples = _samples(table)
    summary: dict[str, Any] = {
        "problems": table.num_rows // samples,
        "samples": samples,
        "models": {label: _model(table, label, samples, seed) for label in labels},
        "differences": {
            label: _difference(table, labels[0], label, samples, seed) for label in labels[1:]
        },
    }
    checks = checks_of(table, labels[0])
    if checks:
        summary["graders"] = {
            label: {check: float(scores_of(table, f"{label}_{check}").mean()) for check in checks}
            for label in labels
        }
        summary["graders_disagree"] = len(disagreements(table, labels))
    if tuple(labels) == LABELS:
        summary |= {label: summary["models"][label]["accuracy"] for label in labels}
        summary |= _difference_of(summary["differences"]["improved"])
    return summary


def macro(tables: Mapping[str, pa.Table], labels: Sequence[str], seed: int) -> dict[str, Any]:
    """The plain mean over tasks: `models.<label>.accuracy` and `differences.<label>`."""
    scores = {label: [scores_of(table, label) for table in tables.values()] for label in labels}
    first = scores[labels[0]]
    differences = {
        label: _difference_of(macro_difference(list(zip(first, scores[label], strict=True)), seed))
        for label in labels[1:]
    }
    means = {
        label: {"accuracy": float(np.mean([s.mean() for s in scores[label]]))} for label in labels
    }
    return {"tasks": len(tables), "models": means, "differences": differences}


def survival(
    original: pa.Table, variant: pa.Table | None, labels: Sequence[str], seed: int
) -> dict[str, Any]:
    """What a perturbation does to a task's accuracy: `problems` that have a variant, `of` how many.

    On those problems, `models.<label>` has accuracy before (`original`) and after, `survive` (the share
    of the right answers that stay right, or null where none was), and after minus before with its paired
    interval; `differences.<label>` is the model's accuracy on the variants minus the first label's.
    """
    of = original.num_rows // _samples(original)
    if variant is None:
        return {"problems": 0, "of": of, "models": {}, "differences": {}}
    ids = original["problem_id"].to_pylist()[:: _samples(original)]
    chosen = np.isin(ids, variant["problem_id"].to_pylist())
    models, after = {}, {label: scores_of(variant, label) for label in labels}
    for label in labels:
        before = scores_of(original, label)[chosen]
        kept = float((before * after[label]).sum() / before.sum()) if before.any() else None
        accuracies = {"original": float(before.mean()), "accuracy": float(after[label].mean())}
        models[label] = accuracies | {"survive": kept} | _gain(before, after[label], seed)
    differences = {label: _gain(after[labels[0]], after[label], seed) for label in labels[1:]}
    return {"problems": int(chosen.sum()), "of": of, "models": models, "differences": differences}


def gains(difference: Mapping[str, Any]) -> dict[str, Any]:
    """A difference's parts over several samples by name, such as pass@8 and majority; none of one sample."""
    if "majority" not in difference:
        return {}
    at_k = {f"pass@{k}": gain for k, gain in difference["pass_at_k"].items()}
    return at_k | {"majority": difference["majority"]}


def judge_of(part: Mapping[str, Any]) -> str:
    """Whose verdicts a task's accuracy, a part of summary.json, is made of."""
    checks: Mapping[str, Any] = next(iter(part.get("graders", {}).values()), {})
    return "the paper's" if OURS in checks else "ours"


def prompt_alone(same: pa.Table, paper: pa.Table, label: str, seed: int) -> dict[str, Any]:
    """What a model's accuracy is under protocols same and paper, by our grader, and same minus paper."""
    by_ours = f"{label}_{OURS}" if OURS in checks_of(paper, label) else label
    by_paper, by_same = scores_of(paper, by_ours), scores_of(same, label)
    accuracies = {"same": float(by_same.mean()), "paper": float(by_paper.mean())}
    return {"model": label, **accuracies, **_gain(by_paper, by_same, seed)}


def changed(table: pa.Table, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Rows whose verdict differs between the first label and another, gained ones first.

    `change` is gained or lost, `model` the other label; the rest is the table's.
    """
    first, found = labels[0], []
    for label in labels[1:]:
        columns = [f"{model}_{part}" for model in (first, label) for part in PARTS]
        for row in table.select([*SHARED, *columns]).to_pylist():
            if row[f"{first}_correct"] != row[f"{label}_correct"]:
                change = "lost" if row[f"{first}_correct"] else "gained"
                found.append({"change": change, "model": label, **row})
    return sorted(found, key=lambda row: row["change"] == "lost")


def checks_of(table: pa.Table, label: str) -> list[str]:
    """Names of the other graders whose verdicts a task's table has."""
    return [c for c in (OURS, *OTHERS) if f"{label}_{c}_correct" in table.column_names]


def disagreements(table: pa.Table, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Answers on which another grader's verdict is not the table's: problem_id, problem, expected, sample,
    `model`, completion, answer, correct, and of each grader <check>_answer and <check>_correct."""
    found = []
    for label in labels:
        checks = checks_of(table, label)
        parts = [*PARTS, *(f"{check}_{part}" for check in checks for part in ("answer", "correct"))]
        for row in table.select([*SHARED, *(f"{label}_{part}" for part in parts)]).to_pylist():
            ours = row[f"{label}_correct"]
            if any(row[f"{label}_{check}_correct"] != ours for check in checks):
                shared = {name: row[name] for name in SHARED}
                found.append(shared | {"model": label} | {p: row[f"{label}_{p}"] for p in parts})
    return found


def check_asked_alike(task: str, first: pa.Table, other: pa.Table, place: str) -> None:
    """Raises StageError unless both tables of a task are of the same problems, row by row.

    `place`: of the other, to be named. Whatever pairs scores of two evaluations rests on that.
    """
    if not first.select(SHARED).equals(other.select(SHARED)):
        raise StageError(
            f"{place}: was asked other problems of {task} than what it is compared with, as its file or "
            "source has changed since; give another --run"
        )


def scores_of(table: pa.Table, label: str) -> Scores:
    """Share of each problem's samples that are right, shape [N]."""
    correct = np.array(table[f"{label}_correct"].to_pylist(), dtype=float)
    return np.asarray(correct.reshape(-1, _samples(table)).mean(axis=1))


def _samples(table: pa.Table) -> int:
    return int(max(table["sample"].to_pylist())) + 1


def _model(table: pa.Table, label: str, samples: int, seed: int) -> dict[str, Any]:
    reasons = Counter(table[f"{label}_finish_reason"].to_pylist())
    scores, answers = scores_of(table, label), table.num_rows
    figures: dict[str, Any] = {
        "accuracy": float(scores.mean()),
        "accuracy_ci95": accuracy_interval(scores, seed),
        "answered": 1 - table[f"{label}_answer"].null_count / answers,
        "cut": reasons["length"] / answers,
        "refused": reasons["refused"] / answers,
        "characters": float(pc.mean(pc.utf8_length(table[f"{label}_completion"])).as_py() or 0),
    }
    if samples > 1:
        at_k = _at_k(table, label, samples)
        figures["pass_at_k"] = {k: float(solved.mean()) for k, solved in at_k.items()}
        figures["majority"] = float(_majority(table, label, samples).mean())
    return figures


def _at_k(table: pa.Table, label: str, samples: int) -> dict[str, Scores]:
    """`pass_at_k` of each problem, shape [N], for the powers of two up to the number of samples, and it."""
    right = np.round(scores_of(table, label) * samples).astype(int)
    ks = sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | {samples})
    return {str(k): pass_at_k(right, samples, k) for k in ks}


def _majority(table: pa.Table, label: str, samples: int) -> Scores:
    """Whether the most frequent answer is right, shape [N]; the first of equally frequent ones counts.

    All right answers are one answer, however they are written; wrong ones, where their text is tidied.
    """
    said, correct = (table[f"{label}_{part}"].to_pylist() for part in ("answer", "correct"))
    votes = [True if right else _vote(answer) for answer, right in zip(said, correct, strict=True)]
    won = []
    for start in range(0, len(votes), samples):
        cast = [vote for vote in votes[start : start + samples] if vote is not None]
        won.append(bool(cast) and Counter(cast).most_common(1)[0][0] is True)
    return np.array(won, dtype=float)


def _vote(answer: str | None) -> str | None:
    return key(tidy(answer)) or answer if answer and len(answer) <= 200 else answer


def _difference(table: pa.Table, first: str, other: str, samples: int, seed: int) -> dict[str, Any]:
    """Of accuracies; with several samples also whether a gain is there when models may try again."""
    ours, theirs = (scores_of(table, label) for label in (first, other))
    gained, lost = int((theirs > ours).sum()), int((theirs < ours).sum())
    found = _gain(ours, theirs, seed) | {"gained": gained, "lost": lost, "mcnemar_p": None}
    if samples == 1:
        return found | {"mcnemar_p": mcnemar_p(gained, lost)}
    ours_k, theirs_k = (_at_k(table, label, samples) for label in (first, other))
    votes, their_votes = (_majority(table, label, samples) for label in (first, other))
    at_k = {k: _gain(ours_k[k], theirs_k[k], seed) for k in ours_k}
    return found | {"pass_at_k": at_k, "majority": _gain(votes, their_votes, seed)}


def _gain(first: Scores, other: Scores, seed: int) -> dict[str, Any]:
    """How much better the other is, with its interval."""
    return _difference_of(paired_difference(first, other, seed))


def _difference_of(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("difference", "difference_ci95")}
