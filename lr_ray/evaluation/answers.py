"""Answers are kept as they come, so that an evaluation that was killed asks only what is missing.

An answer lies under a key of everything that it depends on: the model's identity and the request.
Exercised by `pytest tests/unit/test_answers.py` and `tests/integration/endpoint/test_evaluation.py`.
"""

import hashlib
import json
import re
import time
import uuid
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from lr_ray.run.store import Run

FOLDER = "answers"
_EVERY_S = 2.0  # a killed evaluation loses the answers of so long
_SCHEMA = pa.schema(
    [("key", pa.string()), ("completion", pa.string()), ("finish_reason", pa.string())]
)


# What servers call an answer that the limit on tokens cut, in lower case: length is OpenAI's and vLLM's.
_CUT = ("length", "max_length", "max_output_tokens", "max_tokens", "model_length", "token_limit")
# One that they broke off, as a gateway whose provider failed: its text is not what the model says.
_BROKEN_OFF = (
    "abort", "aborted", "cancelled", "error", "insufficient_system_resource", "network_error",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a model said, the prefill included.

    `finish_reason` is stop or length, or refused where the endpoint would not take the prompt (too
    long for the model); the completion is its reason then.
    """

    completion: str
    finish_reason: str


def answer_of(choice: Any, raw: bool) -> Answer:
    """The answer in a reply's choice: a raw completion's or a chat's, whose content may be in parts.

    Raises AttributeError, KeyError, TypeError or ValueError for what is neither, or was broken off.
    """
    reason = str(choice.finish_reason or "stop")
    if reason.lower() in _BROKEN_OFF or getattr(choice, "error", None):
        raise ValueError("an answer that was broken off")
    said = choice.text if raw else choice.message.content or ""
    if isinstance(said, list):  # of which only text is the answer, as thinking is not
        said = "".join(part["text"] for part in said if part["type"] == "text")
    if not isinstance(said, str):
        raise ValueError("an answer without text")
    return Answer(storable(said), "length" if reason.lower() in _CUT else reason)


def storable(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can escape and no file of ours can hold."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


@dataclass(frozen=True)
class Question:
    """A request to a served model; equal keys have equal answers."""

    model: str
    key: str
    body: dict[str, Any]


def question(model: str, identity: str, body: dict[str, Any]) -> Question:
    """`identity` tells the model whatever its served name: a fingerprint, or URL and name."""
    asked = {**body, "model": identity}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return Question(model, digest[:32], {**body, "model": model})


class AnswerStore:
    """The answers in a run's folder. A context manager: what was added last is written at its end."""

    def __init__(self, run: Run) -> None:
        self.run, self.answers = run, dict[str, Answer]()
        self._new: dict[str, Answer] = {}
        self._written = time.monotonic()
        for row in run.read_tables(run.shards(FOLDER), _SCHEMA).to_pylist():
            self.answers[row["key"]] = Answer(row["completion"], row["finish_reason"])

    def add(self, key: str, answer: Answer) -> None:
        self.answers[key] = self._new[key] = answer
        if time.monotonic() - self._written > _EVERY_S:
            self.write()

    def write(self) -> None:
        """Raises StageError where another driver has taken the run over."""
        if self._new:
            self.run.check_owner()
            rows = [{"key": key, **asdict(answer)} for key, answer in self._new.items()]
            name = f"{FOLDER}/part-{uuid.uuid4().hex[:12]}.parquet"
            self.run.write_table(name, pa.Table.from_pylist(rows, _SCHEMA))
            self._new = {}
        self._written = time.monotonic()

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.write()
