"""Where the two models differ: some trajectories as text, with what both models say of each step."""

from typing import Any

import numpy as np
import pyarrow as pa

from lr_ray.report.page.source import Scored, Source
from lr_ray.report.page.words import Words

TITLE = "Where the two models differ"
_SHOWN = 24
_MOST_STEPS = 1000  # of a trajectory
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # nats from which a step is shaded one grade more


def section(source: Source) -> dict[str, Any] | None:
    scored, words = source.scored, source.words
    if scored is None or words is None:
        return None
    least = source.config["sampling"]["plausibility"]
    rows = [_trajectory(scored, row, source.problems, words, least) for row in _chosen(scored)]
    return {
        "rows": rows,
        "details": [row.pop("details") for row in rows],
        "of": len(scored.steps.lengths),
        "levels": LEVELS,
        "sampling": source.config["sampling"],
        "most": _MOST_STEPS,
    }


def _chosen(scored: Scored) -> list[int]:
    """Rows of trajectories, by kept steps: that with the most, and others evenly down to the fewest."""
    kept_R = np.add.reduceat(scored.kept, scored.steps.starts, dtype=np.int64)
    order = np.argsort(-kept_R, kind="stable")
    places = np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).astype(int)
    return [int(row) for row in order[places]]


def _trajectory(
    scored: Scored, row: int, problems: dict[str, str], words: Words, least: float
) -> dict[str, Any]:
    record = scored.scores.slice(row, 1).drop_columns("prompt_token_ids").to_pylist()[0]
    ids, kl = record["completion_token_ids"][:_MOST_STEPS], record["kl"][:_MOST_STEPS]
    labels = _labels(scored.supervision, record["problem_id"])
    pieces, plausible = words.pieces(ids), record["plausible"][: len(ids)]
    tokens = [
        {
            "text": _visible(text),
            "name": _name(text),
            "kl": step,
            "kept": at in labels,
            "level": sum(step >= bound for bound in LEVELS),
        }
        for at, (text, step) in enumerate(zip(pieces, kl, strict=True))
    ]
    return {
        "problem_id": record["problem_id"],
        "problem": problems.get(record["problem_id"], ""),
        "tokens": tokens,
        "steps": len(record["kl"]),
        "kept": len(labels),
        "largest": max(record["kl"], default=0.0),
        "cut": record["finish_reason"] == "length",
        "details": [
            _detail(words, token, text, found, labels.get(at, {}), least)
            for at, (token, text, found) in enumerate(zip(ids, pieces, plausible, strict=True))
        ],
    }


def _labels(supervision: pa.Table, problem_id: str) -> dict[int, dict[int, float]]:
    """Token ids and weights of each kept step, by position."""
    found = supervision.filter(pa.compute.equal(supervision["problem_id"], problem_id))
    return {
        step["position"]: dict(zip(step["token_ids"], step["weights"], strict=True))
        for row in found["steps"].to_pylist()
        for step in row
    }


def _detail(
    words: Words,
    taken: int,
    text: str,
    plausible: dict[str, Any],
    label: dict[int, float],
    least: float,
) -> list[Any]:
    """The taken token and which row is its own (-1: none), as it may read otherwise alone; and the rows.

    A row is a token with its probability by the expert and the amateur, and its weight in the label. Scores
    may be of a smaller plausibility than the run's, `least`.
    """
    p, q = (np.exp(plausible[f"{role}_logprobs"]).tolist() for role in ("expert", "amateur"))
    found = zip(plausible["token_ids"], p, q, strict=True)
    of: dict[int, list[float | None]] = {
        i: [round(a, 4), round(b, 4)] for i, a, b in found if a >= least * max(p) or i in label
    }
    of |= {i: [None, None] for i in label if i not in of}
    rows = [[words.alone(i), *both, round(label.get(i, 0.0), 4)] for i, both in of.items()]
    own = list(of).index(taken) if taken in of else -1
    return [[text or words.alone(taken), own], *rows]


def _visible(text: str) -> str:
    """A token that is nothing but line ends, or a part of a character, still has to be seen."""
    if not text:
        return "\u25cc"
    return text.replace("\n", "\u21b5\n") if not text.strip() else text


def _name(text: str) -> str | None:
    """How a screen reader says a token that has nothing to read."""
    if text.strip():
        return None
    return "line end" if "\n" in text else "space" if text else "part of a character"
