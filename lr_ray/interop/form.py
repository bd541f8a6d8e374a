"""One line of a samples file: what it must hold, and whether it was made with this tokenizer."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_ray.errors import UserError, counted
from lr_ray.json_text import JsonError, once
from lr_ray.models.files import vocabulary_rows
from lr_ray.models.models import context_length, load_tokenizer, render_prompt
from lr_ray.problems.rows import UnusableRowError as BadLine

PUBLISHED = ("prompt_id", "step", "prefix", "tokens", "token_ids", "weights", "kl_divergence")
# The published code's fixed system turn, in sampling as in training.
PUBLISHED_SYSTEM_PROMPT = "Please reason step by step."

SUM_TOLERANCE = 1e-3  # half-precision rounding of a few weights
_FLOAT32_ROUNDING = 1e-5
_OTHER_FORMS = (".bz2", ".xz", ".zst", ".lz4", ".zip", ".parquet")
_LONGEST_ID = 80  # characters; a longer prompt_id is a problem's text


@dataclass(frozen=True)
class Line:
    """A kept step as its file has it."""

    number: int  # from 1
    prompt_id: str
    problem_id: str
    step: int
    prefix: str
    token_ids: list[int]
    weights: NDArray[np.float32]  # sum to 1
    kl: float  # nats
    context: list[int] | None  # prompt and the completion's first `step` tokens


class Expert:
    """What reading and writing need from the expert: its tokenizer and its sizes."""

    def __init__(self, path: str, system_prompt: str | None, variables: Mapping[str, Any]) -> None:
        """`variables` of the chat template."""
        self.tokenizer = load_tokenizer(path)
        self.rows = vocabulary_rows(path)
        self.room = context_length(path)
        self.system_prompt, self.variables = system_prompt, variables
        self.text = cache(self._alone)

    def _alone(self, token_id: int) -> str:
        """Text of one token alone."""
        return str(self.tokenizer.decode([token_id]))

    def prompt(self, problem: str) -> list[int]:
        return render_prompt(self.tokenizer, problem, self.system_prompt, self.variables)

    @cached_property
    def opening(self) -> int:
        """The token that every prompt begins with."""
        return self.prompt("?")[0]

    def disagreement(self, token_ids: list[int], tokens: list[Any]) -> tuple[int, Any, str] | None:
        """The first token id whose text is another here: id, text there, text here.

        Raw vocabulary pieces count as their text. Parts of a character cannot be compared.
        """
        for token_id, there in zip(token_ids, tokens, strict=True):
            here = self.text(token_id)
            if there == here or "\ufffd" in f"{there}{here}":
                continue
            if there != self.tokenizer.convert_ids_to_tokens(token_id):
                return token_id, there, here
        return None


def is_gzipped(file: str, option: str) -> bool:
    """By its name. Raises UserError naming `option` for the name of what is not read or written."""
    if file.lower().endswith(_OTHER_FORMS):
        form = file[file.rindex(".") :]
        raise UserError(f"{option} {file}: cannot be {form}; give .jsonl, or .jsonl.gz")
    return file.lower().endswith(".gz")


def parse(raw: bytes, file: str, number: int, expert: Expert) -> Line:
    """The line, checked. Raises BadLine with the reason."""
    item = decode(raw)
    missing = [name for name in PUBLISHED if name not in item]
    if missing:
        raise BadLine(f"no {', '.join(missing)}")
    prompt_id = item["prompt_id"]
    if isinstance(prompt_id, int) and not isinstance(prompt_id, bool):
        prompt_id = str(prompt_id)
    if not _text(prompt_id) or not prompt_id.strip():
        raise BadLine("prompt_id must be a text that is not empty")
    problem_id = item.get("problem_id") or short_id(prompt_id, file)
    if not _text(problem_id):
        raise BadLine("problem_id must be a text")
    try:
        return _read(item, number, prompt_id, problem_id, expert)
    except BadLine as error:
        raise BadLine(str(error), problem_id) from None


def _read(
    item: dict[str, Any], number: int, prompt_id: str, problem_id: str, expert: Expert
) -> Line:
    step, prefix, kl = item["step"], item["prefix"], item["kl_divergence"]
    if not _whole(step):
        raise BadLine(f"step must be a whole number from 0, not {_shown(step)}")
    if not _text(prefix):
        raise BadLine("prefix must be a text")
    if not _number(kl):
        raise BadLine(f"kl_divergence must be a finite number from 0, not {_shown(kl)}")
    ids = _ids(item, "token_ids", expert)
    weights = _weights(item["weights"], len(ids))
    tokens = item["tokens"]
    if not isinstance(tokens, list) or len(tokens) != len(ids):
        raise BadLine(f"tokens must be a list of {len(ids)}, as token_ids")
    differing = expert.disagreement(ids, tokens)
    if differing:
        token_id, there, here = differing
        raise BadLine(f"token {token_id} is {_shown(there)} there and {here!r} for the expert")
    context = _ids(item, "context_token_ids", expert) if "context_token_ids" in item else None
    if context is not None and len(context) < step:
        raise BadLine(
            f"context_token_ids has {counted(len(context), 'token')}, fewer than step = {step}"
        )
    return Line(number, prompt_id, problem_id, step, prefix, ids, weights, float(kl), context)


def decode(raw: bytes) -> dict[str, Any]:
    """The line's JSON object. Raises BadLine."""
    try:
        item = json.loads(raw, object_pairs_hook=once)
    except UnicodeDecodeError:
        raise BadLine("not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise BadLine(str(error) if isinstance(error, JsonError) else "not JSON") from None
    if not isinstance(item, dict):
        raise BadLine("not a JSON object")
    return item


def short_id(prompt_id: str, file: str) -> str:
    """prompt_id itself when it is short and one line, else the file's stem and the text's hash."""
    if len(prompt_id) <= _LONGEST_ID and len(prompt_id.splitlines()) == 1:
        return prompt_id
    digest = hashlib.sha256(prompt_id.encode()).hexdigest()[:16]
    return f"{PurePath(file).stem}-{digest}"


def _ids(item: dict[str, Any], name: str, expert: Expert) -> list[int]:
    ids = item[name]
    if not isinstance(ids, list) or not ids:
        raise BadLine(f"{name} must be a list that is not empty")
    for token_id in ids:
        if not _whole(token_id) or token_id >= expert.rows:
            raise BadLine(
                f"{name} holds {_shown(token_id)}; the expert's ids are 0 to {expert.rows - 1}"
            )
    if name == "token_ids" and len(set(ids)) < len(ids):
        raise BadLine("token_ids holds a token twice")
    return ids


def _weights(weights: Any, count: int) -> NDArray[np.float32]:
    if not isinstance(weights, list) or len(weights) != count:
        raise BadLine(f"weights must be a list of {count}, as token_ids")
    for weight in weights:
        if not _number(weight):
            raise BadLine(f"weights holds {_shown(weight)}; they must be finite and from 0")
    total = math.fsum(weights)
    if abs(total - 1) > SUM_TOLERANCE:
        raise BadLine(f"weights sum to {total:.6g}, not to 1")
    scale = 1 if abs(total - 1) <= _FLOAT32_ROUNDING else total
    return (np.asarray(weights, np.float64) / scale).astype(np.float32)


def _text(value: Any) -> bool:
    """A string without half of a surrogate pair, which JSON can escape and UTF-8 cannot hold."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _number(value: Any) -> bool:
    """A finite float32 from 0."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 <= value < float(np.finfo(np.float32).max)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."
