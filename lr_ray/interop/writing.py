"""A run's supervision to a samples file of the published form.

Exercised by `lr-ray export` and `pytest tests/unit/test_interchange.py`.
"""

import contextlib
import gzip
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.implementations.local import LocalFileSystem

from lr_ray.errors import StageError, UserError, why_not_read
from lr_ray.interop.form import Expert, is_gzipped
from lr_ray.labelling.shards import checked_footers
from lr_ray.run.paths import atomic, check_home, check_lasting
from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run
from lr_ray.training.data import check_rows

_CHUNK = 20_000  # rows in memory; each chunk is one pass over the shards, which are in no order
_MARK = "[[problem]]"


def check_out(out: str, overwrite: bool) -> None:
    """Raises UserError when `out` cannot be, or must not be, written."""
    is_gzipped(out, "--out")
    try:
        fs, path = fsspec.core.url_to_fs(out)
        if out.endswith("/") or fs.isdir(path):
            raise UserError(f"--out {out}: is a directory; give a file")
        if fs.exists(path) and not overwrite:
            raise UserError(f"--out {out}: exists; give another, or --overwrite")
        if isinstance(fs, LocalFileSystem):
            check_home(out, "--out")
            check_lasting(path, f"--out {out}")
            os.makedirs(folder := os.path.dirname(path), exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()  # so that it can be written there
    except UserError:
        raise
    except Exception as error:  # each file system has exceptions of its own
        raise UserError(f"--out {out}: {why_not_read(error)}") from None


def export(run: Run, expert: Expert, out: str) -> Counter[str]:
    """Writes the file, by problem_id and position, and counts what it holds.

    `trajectories`, `steps`; `prompts_unread`: trajectories whose prompt is not the template over a
    problem's text, so that prompt_id is the problem_id; `steps_retokenized`: whose prefix tokenizes
    otherwise than it was generated; `steps_beyond`: whose label has tokens that the published
    training drops. Raises StageError when there is no kept step, or a row that cannot be used; the file
    appears whole or not at all.
    """
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_atomic(out))
        if is_gzipped(out, "--out"):  # the same bytes at any time
            stream = stack.enter_context(gzip.GzipFile("", "wb", 6, stream, mtime=0))
        for table in _sorted_rows(run, expert.rows):
            for record in table.to_pylist():
                for line in _lines(record, expert, counts):
                    stream.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        if not counts["steps"]:
            raise StageError(f"--run {run.location}: no kept step to export")
    return counts


def _sorted_rows(run: Run, vocabulary: int) -> Iterator[pa.Table]:
    names = list(checked_footers(run, "supervision"))
    ids: list[str] = []
    for name in names:
        table = run.read_tables([name], SUPERVISION).combine_chunks()
        for batch in table.to_batches():
            check_rows(batch, f"{run.location}/{name}", vocabulary)
        ids += table["problem_id"].to_pylist()
    ids.sort()
    for start in range(0, len(ids), _CHUNK):
        wanted = pa.array(ids[start : start + _CHUNK], pa.string())
        parts = []
        for name in names:
            table = run.read_tables([name], SUPERVISION)
            parts.append(table.filter(pc.is_in(table["problem_id"], wanted)))
        yield pa.concat_tables(parts).sort_by("problem_id")


def _lines(
    record: dict[str, Any], expert: Expert, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The published fields of each kept step, then the two that make it exact."""
    if not record["steps"]:
        return
    prompt, completion = record["prompt_token_ids"], record["completion_token_ids"]
    problem = problem_of(prompt, expert)
    counts["trajectories"] += 1
    counts["prompts_unread"] += problem is None
    steps = sorted(record["steps"], key=lambda step: step["position"])
    contexts = [completion[: step["position"]] for step in steps]
    prefixes = expert.tokenizer.batch_decode(contexts)
    again = expert.tokenizer(prefixes, add_special_tokens=False)["input_ids"]
    known = expert.tokenizer.vocab_size
    for step, context, prefix, ids in zip(steps, contexts, prefixes, again, strict=True):
        counts["steps"] += 1
        counts["steps_retokenized"] += ids != context
        counts["steps_beyond"] += max(step["token_ids"]) >= known
        yield {
            "prompt_id": record["problem_id"] if problem is None else problem,
            "step": step["position"],
            "prefix": prefix,
            "tokens": [expert.text(i) for i in step["token_ids"]],
            "token_ids": step["token_ids"],
            "weights": step["weights"],
            "kl_divergence": record["kl"][step["position"]],
            "problem_id": record["problem_id"],
            "context_token_ids": prompt + context,
        }


def problem_of(prompt: list[int], expert: Expert) -> str | None:
    """The text that the chat template was rendered over, if that gives these very tokens."""
    head, _, tail = expert.tokenizer.decode(expert.prompt(_MARK)).partition(_MARK)
    text = expert.tokenizer.decode(prompt)
    if not (text.startswith(head) and text.endswith(tail)):
        return None
    problem = text[len(head) : len(text) - len(tail)]
    return problem if problem.strip() and expert.prompt(problem) == prompt else None


@contextlib.contextmanager
def _atomic(out: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """A stream whose file takes its name on success; other filesystems commit a transaction."""
    fs, path = fsspec.core.url_to_fs(out)
    if isinstance(fs, LocalFileSystem):
        with atomic(path) as temporary, open(temporary, "wb") as stream:
            yield stream
    else:
        with fs.transaction, fs.open(path, "wb") as stream:
            yield stream
