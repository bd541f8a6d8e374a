"""Reads what a model directory says of itself: config.json, and the shapes of its weights.

Exercised by `pytest tests/unit/test_model_files.py`.
"""

import codecs
import json
import os
import re
from pathlib import Path
from typing import Any

from lr_ray.errors import GIT_LFS, IS_POINTER, UserError, reason

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
# A second copy of a model's weights, in Mistral's own form.
MISTRAL = "consolidated*.safetensors"
# Where configs of multimodal models keep that of the language model.
_NESTED = ("text_config", "llm_config", "language_config")
# As vLLM looks for it (`vllm.config.model`); models of before Llama have names of their own.
_CONTEXT = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"
)  # fmt: skip
# Byte order marks, at which transformers and the engines stop, or which they take for text, as in a template.
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_IS_MARKED = "begins with a byte order mark; save it as UTF-8 without one"


def read_object(file: Path, where: str) -> dict[str, Any]:
    """A file's JSON object. Raises UserError that begins with `where`."""
    try:
        if file.is_fifo():  # which may never end
            raise UserError(f"{where}: {file.name}: a pipe; give a regular file")
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{where}: {file.name}: {error.strerror or error}") from None
    check_head(content, file.name, where)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: {file.name}: no whole JSON: {reason}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: {file.name}: must be a JSON object")
    return value


def check_head(content: bytes, name: str, where: str) -> None:
    """Raises UserError, beginning with `where`, for a pointer of git-lfs and a byte order mark."""
    if content.startswith(GIT_LFS):
        raise UserError(f"{where}: {name} {IS_POINTER}")
    if content.startswith(_MARKS):
        raise UserError(f"{where}: {name} {_IS_MARKED}")


def text_config(path: str, where: str | None = None) -> dict[str, Any]:
    """config.json, or the part of it that describes the language model."""
    config = read_object(Path(path, "config.json"), where or path)
    nested = nested_in(config)
    return dict(config[nested]) if nested else config


def nested_in(config: dict[str, Any]) -> str | None:
    """The name under which a multimodal model's config has its language model's."""
    return next((name for name in _NESTED if isinstance(config.get(name), dict)), None)


def _quantised(path: str, where: str) -> tuple[str, dict[str, Any]] | None:
    """How a model's weights are quantised, by its name and config.json's settings; None where not."""
    found = read_object(Path(path, "config.json"), where).get("quantization_config")
    if not isinstance(found, dict):
        return None
    kind = found.get("quant_method") or found.get("quant_algo") or "of a kind that is not named"
    return str(kind), found


def check_trainable(path: str, where: str) -> None:
    """Raises UserError, beginning with `where`, for quantised weights: they are sampled and served alone."""
    if found := _quantised(path, where):
        raise UserError(
            f"{where}: its weights are quantised ({found[0]}); vLLM samples and serves them, and training "
            "needs them in bfloat16 or float32: give the model that they were made of, and for supervision "
            "that is there, lr-ray export and lr-ray import"
        )


def check_auditable(path: str, where: str) -> None:
    """Raises UserError, beginning with `where`, for quantised weights that transformers cannot read here."""
    found = _quantised(path, where)
    if found is None:
        return
    from transformers.quantizers import AutoHfQuantizer

    kind, settings = found
    try:
        quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=True)
        quantizer.validate_environment(device_map=None, weights_only=True)
    except Exception as error:  # a kind that is not known, a package or a GPU that is missing
        raise UserError(
            f"{where}: its weights are quantised ({kind}); vLLM samples and serves them, and an audit reads "
            f"them by transformers: {reason(error)}"
        ) from None


def whole_number(path: str, *names: str, where: str | None = None) -> int:
    """The first of these fields that config.json has. Raises UserError where none is a number above 0."""
    where, config = where or path, text_config(path, where)
    name = next((name for name in names if config.get(name) is not None), names[0])
    value = config.get(name)
    if value is None:
        raise UserError(f"{where}: config.json has no {name}; add it, a whole number above 0")
    if type(value) is not int or value < 1:
        raise UserError(f"{where}: config.json: {name} = {value!r}: must be a whole number above 0")
    return value


def architecture(path: str, where: str | None = None) -> str:
    """The model's class. Raises UserError where config.json does not name it."""
    where = where or path
    named = read_object(Path(path, "config.json"), where).get("architectures")
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        raise UserError(f"{where}: config.json has no architectures; add it, as [Qwen2ForCausalLM]")
    return named[0]


def vocabulary_rows(path: str, where: str | None = None) -> int:
    """Rows of the model's output layer: at least as many as the tokenizer has tokens."""
    return whole_number(path, "vocab_size", where=where)


def context_length(path: str, where: str | None = None) -> int:
    """Tokens of prompt and completion that the model reads."""
    return whole_number(path, *_CONTEXT, where=where)


Shapes = dict[str, list[int]]


def check_weights(folder: Path, where: str) -> Shapes:
    """Shapes of all tensors. Raises UserError when a shard of the weights is missing or not whole."""
    files = sorted(folder.glob("[!.]*.safetensors"))  # engines do not see hidden ones either
    if not files and not (folder / INDEX).is_file():
        raise UserError(f"{where}: no *.safetensors weights")
    tensors = {file.name: _shapes(file, where) for file in files}
    placed = _placed(folder, where) if (folder / INDEX).is_file() else {}
    expected = set(placed.values()) | {name for file in tensors for name in _siblings(file)}
    missing = sorted(expected - tensors.keys())
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"{where}: {len(missing)} of {len(expected)} shards of weights missing: {shown}; "
            "copy them there"
        )
    if len(expected) > 1 and not placed:
        raise UserError(f"{where}: no {INDEX}, which says what the shards of weights hold")
    for tensor, name in placed.items():
        if tensor not in tensors[name]:
            raise UserError(f"{where}: {name} has no {tensor}, which {INDEX} places there")
    if not any(tensors.values()):
        raise UserError(f"{where}: {', '.join(tensors)}: holds no tensor; copy the weights there")
    # What the index does not name is not loaded either.
    loaded = sorted(set(placed.values())) or sorted(tensors)
    for name in loaded:
        if twice := next((t for t in tensors[name] if placed.get(t, name) != name), None):
            raise UserError(
                f"{where}: {twice} is in {name}, and also in {placed[twice]}, where {INDEX} places it; "
                "copy weights and index of one model"
            )
    return {tensor: shape for name in loaded for tensor, shape in tensors[name].items()}


def check_same_files(folder: Path, where: str) -> None:
    """Raises UserError where vLLM and transformers would not read the same files of a model's weights.

    vLLM, as `engines` starts it, reads those that the index names, and all without one; transformers reads
    `_SINGLE` where that is there, then those of the index, and knows no other name.
    """
    there = {file.name for file in folder.glob("[!.]*.safetensors")}
    others = sorted(there - {_SINGLE})
    if (folder / INDEX).is_file():
        if _SINGLE in there and weight_files(folder, where) != [_SINGLE]:
            raise UserError(
                f"{where}: {_SINGLE} lies beside {INDEX}, which names other files: training would read the "
                "one, and vLLM the others; move the one or the others away"
            )
    elif _SINGLE not in there:
        raise UserError(
            f"{where}: no {_SINGLE}, the only name by which training finds the weights; rename {others[0]}"
        )
    elif others:
        raise UserError(
            f"{where}: {others[0]} lies beside {_SINGLE}: vLLM would read both, and training the latter; "
            "move one of them away"
        )


def weight_files(folder: Path, where: str) -> list[str]:
    """Names of the files that hold a model's weights."""
    return sorted(set(_placed(folder, where).values())) if (folder / INDEX).is_file() else [_SINGLE]


def _placed(folder: Path, where: str) -> dict[str, str]:
    """The index: names of tensors to names of files. Raises UserError when it has something else."""
    placed = read_object(folder / INDEX, where).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise UserError(f"{where}: {INDEX} has no weight_map; copy the index again")
    for tensor, name in placed.items():
        if not isinstance(name, str):
            raise UserError(
                f"{where}: {INDEX}: weight_map: {tensor} = {name!r}: must be the name of a file; "
                "copy the index again"
            )
    return placed


def _siblings(name: str) -> list[str]:
    """model-00001-of-00003.safetensors and the others of its three."""
    found = re.fullmatch(r"(.*-)(\d+)(-of-)(\d+)(\.safetensors)", name)
    if not found or not 0 < int(found[4]) < 100_000:
        return []
    before, number, of, count, after = found.groups()
    return [f"{before}{i:0{len(number)}d}{of}{count}{after}" for i in range(1, int(count) + 1)]


def _shapes(file: Path, where: str) -> Shapes:
    """Of a file's tensors. Raises UserError when it does not hold them all."""
    from safetensors import SafetensorError, safe_open

    if os.path.exists(file) and not os.path.isfile(file):  # a pipe may never end
        raise UserError(f"{where}: {file.name} is no regular file; copy it again")
    try:
        if head(file).startswith(GIT_LFS):
            raise UserError(f"{where}: {file.name} {IS_POINTER}")
        with safe_open(file, "np") as weights:
            return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size if file.exists() else 0
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise UserError(
            f"{where}: {file.name} is cut or damaged at {size} bytes ({reason}); copy it again"
        ) from None


def head(file: Path) -> bytes:
    """As many bytes as tell a git-lfs pointer."""
    with file.open("rb") as stream:
        return stream.read(len(GIT_LFS))
