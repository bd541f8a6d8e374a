"""Every answer, side by side, for the page's script; and a few as plain text, one lost among them.

The answers are JSON, compressed, as long as they fit: those of problems whose verdict changed are kept
longest, and what is shortened keeps its beginning and its end.
"""

import base64
import gzip
import json
from typing import Any

import pyarrow as pa

from lr_ray.evaluation.results import PARTS
from lr_ray.report.page.source import Source

TITLE = "Answers"
_BUDGET = 9_000_000  # bytes in the page
_LIMITS = (20_000, 5000, 2500, 1200, 600, 300, 150)  # characters of an answer, tried in turn
_TRIED = 500  # answers that a limit is tried on first
_LONGER = 4  # times as much of one that changed
_EXAMPLES = 3  # of a kind
KINDS = {
    "gained": "gained: wrong before, right after",
    "lost": "lost: right before, wrong after",
    "wrong": "wrong by both",
    "right": "right by both",
}


def section(source: Source) -> dict[str, Any] | None:
    if not source.tables or not any(table.num_rows for table in source.tables.values()):
        return None
    labels = {n: list(part["models"]) for n, part in source.summary["accuracy"].items()}
    tasks = {name: _rows(table, labels[name]) for name, table in source.tables.items()}
    packed, limit = _packed(tasks, labels)
    return {
        "tasks": [_task(name, labels[name], rows) for name, rows in tasks.items()],
        "samples": any(row[3] for rows in tasks.values() for row in rows),
        "packed": packed,
        "limit": limit,
        "kinds": KINDS,
    }


def _rows(table: pa.Table, labels: list[str]) -> list[list[Any]]:
    """[problem_id, problem, expected, sample, then of each model [completion, answer, correct, verdict,
    finish_reason]] of each row."""
    names = ["problem_id", "problem", "expected", "sample"]
    shared = zip(*(table[name].to_pylist() for name in names), strict=True)
    of = [zip(*(table[f"{m}_{p}"].to_pylist() for p in PARTS), strict=True) for m in labels]
    return [[*row, *map(list, models)] for row, *models in zip(shared, *of, strict=True)]


def kind(first: list[Any], other: list[Any]) -> str:
    """Of two models' answers to a problem: one of KINDS."""
    if first[2] == other[2]:
        return "right" if first[2] else "wrong"
    return "lost" if first[2] else "gained"


def _task(name: str, labels: list[str], rows: list[list[Any]]) -> dict[str, Any]:
    counts = [
        {"label": label, **{k: sum(kind(r[4], r[4 + i]) == k for r in rows) for k in KINDS}}
        for i, label in enumerate(labels)
        if i or len(labels) == 1
    ]
    return {"name": name, "labels": labels, "counts": counts, "examples": _examples(labels, rows)}


def _examples(labels: list[str], rows: list[list[Any]]) -> list[dict[str, Any]]:
    """Lost and gained ones; where nothing changed, wrong ones, and without one right ones."""
    by: dict[str, list[dict[str, Any]]] = {k: [] for k in KINDS}
    for row in rows:
        for i in range(1, len(labels)) if len(labels) > 1 else (0,):
            found = by[kind(row[4], row[4 + i])]
            if len(found) < _EXAMPLES:
                both = [(labels[j], row[4 + j]) for j in sorted({0, i})]
                found.append({"row": row[:4], "models": both})
    changed = [(k, example) for k in ("lost", "gained") for example in by[k]]
    alike = "wrong" if by["wrong"] else "right"
    shown = changed or [(alike, example) for example in by[alike]]
    return [{"kind": k, **example} for k, example in shown]


def _packed(tasks: dict[str, Any], labels: dict[str, list[str]]) -> tuple[str, int | None]:
    """The answers as base64 of gzipped JSON, and after how many characters they were shortened."""
    longest = max(len(m[0] or "") for rows in tasks.values() for r in rows for m in r[4:])
    every = max(1, sum(map(len, tasks.values())) // _TRIED)
    few = {name: rows[::every] for name, rows in tasks.items()}
    for limit in _LIMITS:
        if limit != _LIMITS[-1] and every * len(_pack(few, labels, limit)) > _BUDGET:
            continue
        packed = _pack(tasks, labels, limit)
        if len(packed) <= _BUDGET:
            break
    return packed, limit if longest > limit else None


def _pack(tasks: dict[str, Any], labels: dict[str, list[str]], limit: int) -> str:
    content = [
        {"name": name, "labels": labels[name], "rows": [_cut(row, limit) for row in rows]}
        for name, rows in tasks.items()
    ]
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    packed = gzip.compress(text.encode("utf-8", "replace"), 6, mtime=0)
    return base64.b64encode(packed).decode()


def _cut(row: list[Any], limit: int) -> list[Any]:
    models = row[4:]
    changed = any(model[2] != models[0][2] for model in models)
    most = _LONGER * limit if changed else limit
    return [*row[:4], *([_short(m[0] or "", most), *m[1:]] for m in models)]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} [...] {text[-most // 2 :]}"
