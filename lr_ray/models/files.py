"""Checks that the files of a model directory are complete: config, weights, tokenizer.

Exercised by `pytest tests/unit/test_model_files.py`.
"""

import codecs
import itertools
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from lr_ray.errors import GIT_LFS, IS_POINTER, UserError
from lr_ray.models.values import check_values

INDEX = "model.safetensors.index.json"
# Where configs of multimodal models keep that of the language model.
_NESTED = ("text_config", "llm_config", "language_config")
# As vLLM looks for it (`vllm.config.model`); models of before Llama have names of their own.
_CONTEXT = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
)
# Architectures of one form, and their model_type: all that a layer has is under the names below.
_PLAIN = {
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_QUOTIENT = " (hidden_size / num_attention_heads)"
_DIVIDED = ("llama", "mistral", "qwen2")  # whose head_dim is that where config.json has none
_ROWS = {
    "self_attn.q_proj": ("num_attention_heads", "head_dim"),
    "self_attn.k_proj": ("num_key_value_heads", "head_dim"),
    "mlp.gate_proj": ("intermediate_size",),
}
# Byte order marks, at which transformers and the engines stop.
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_IS_MARKED = "begins with a byte order mark; save it as UTF-8 without one"
_OWN_CONFIG = "put the weights' own config.json beside them"
_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json", "*.model", "*.tiktoken")


def read_object(file: Path, where: str) -> dict[str, Any]:
    """A file's JSON object. Raises UserError that begins with `where`."""
    try:
        if file.is_fifo():  # which may never end
            raise UserError(f"{where}: {file.name}: a pipe; give a regular file")
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{where}: {file.name}: {error.strerror or error}") from None
    if content.startswith(GIT_LFS):
        raise UserError(f"{where}: {file.name} {IS_POINTER}")
    if content.startswith(_MARKS):
        raise UserError(f"{where}: {file.name} {_IS_MARKED}")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: {file.name}: no whole JSON: {reason}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: {file.name}: must be a JSON object")
    return value


def text_config(path: str, where: str | None = None) -> dict[str, Any]:
    """config.json, or the part of it that describes the language model."""
    config = read_object(Path(path, "config.json"), where or path)
    nested = nested_in(config)
    return dict(config[nested]) if nested else config


def nested_in(config: dict[str, Any]) -> str | None:
    """The name under which a multimodal model's config has its language model's."""
    return next((name for name in _NESTED if isinstance(config.get(name), dict)), None)


def check_trainable(path: str, where: str) -> None:
    """Raises UserError, beginning with `where`, for quantised weights: they are sampled and served alone."""
    found = read_object(Path(path, "config.json"), where).get("quantization_config")
    if isinstance(found, dict):
        kind = found.get("quant_method") or found.get("quant_algo") or "of a kind that is not named"
        raise UserError(
            f"{where}: its weights are quantised ({kind}); vLLM samples and serves them, and training needs "
            "them in bfloat16 or float32: give the model that they were made of, and for supervision that is "
            "there, lr-ray export and lr-ray import"
        )


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


def check_files(folder: Path, where: str) -> None:
    """Raises UserError that begins with `where` when a file is missing or not whole.

    Of the weights, headers and sizes are read and compared with the index.
    """
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        what = ", but an adapter; give the model merged with it" if adapter else ""
        raise UserError(f"{where}: no config.json{what or '; give a Hugging Face model directory'}")
    for read in (architecture, vocabulary_rows, context_length):
        read(str(folder), where)
    _fit(folder, where, check_weights(folder, where))
    check_tokenizer(folder, where)


def check_tokenizer(folder: Path, where: str) -> None:
    """Raises UserError when no file holds the tokenizer, or one is not whole."""
    found = [file for pattern in _TOKENIZERS for file in sorted(folder.glob(pattern))]
    if not found:
        raise UserError(f"{where}: no tokenizer.json; put the model's tokenizer beside its weights")
    for file in [*found, *folder.glob("tokenizer_config.json"), *folder.glob("chat_template*")]:
        if file.suffix == ".json":
            read_object(file, where)
        elif file.is_file() and _head(file).startswith(GIT_LFS):
            raise UserError(f"{where}: {file.name} {IS_POINTER}")


Shapes = dict[str, list[int]]


def _fit(folder: Path, where: str, shapes: Shapes) -> None:
    """Raises UserError when the config is of another model than the weights."""
    config = read_object(folder / "config.json", where)
    if "model_type" not in config:
        raise UserError(f"{where}: config.json has no model_type; add it, as qwen2")
    if nested_in(config):
        return
    if _PLAIN.get(config["architectures"][0]) == config["model_type"]:
        check_values(config, where)
    for name, shape in shapes.items():
        if name.endswith("embed_tokens.weight") and len(shape) == 2:
            for field, size in zip(("vocab_size", "hidden_size"), shape, strict=True):
                if whole_number(str(folder), field, where=where) != size:
                    raise UserError(
                        f"{where}: config.json: {field} = {config[field]}, and {name} has {size}; "
                        f"{_OWN_CONFIG}"
                    )
    plain = _is_plain(config, shapes)
    _fit_layers(folder, where, shapes, plain)
    if plain:
        _fit_rows(folder, where, shapes)


def _is_plain(config: dict[str, Any], shapes: Shapes) -> bool:
    """Whether layers and shapes must be as config.json says; false where that is not certain."""
    name = config["architectures"][0]
    return (
        name in _PLAIN
        and config.get("model_type") == _PLAIN[name]
        # Layers that predict more tokens are counted apart, and quantised weights may be packed.
        and not any(re.search("nextn|mtp|quantization|compression", field) for field in config)
        and all(shape and tensor.endswith((".weight", ".bias")) for tensor, shape in shapes.items())
    )


def _fit_layers(folder: Path, where: str, shapes: Shapes, plain: bool) -> None:
    """Raises UserError when the weights lack a layer of config.json's count, or `plain` ones have more."""
    layers = _layers(r"\blayers\.(\d+)\.", shapes)
    wanted = whole_number(str(folder), "num_hidden_layers", where=where) if layers else 0
    missing = next((layer for layer in range(wanted) if str(layer) not in layers), None)
    more = len(_layers(r"^model\.layers\.(\d+)\.", shapes))
    if missing is not None:
        found = f"no layer {missing}"
    elif plain and more > wanted:
        found = f"{more} layers"
    else:
        return
    raise UserError(
        f"{where}: config.json: num_hidden_layers = {wanted}, and the weights have {found}; {_OWN_CONFIG}"
    )


def _layers(pattern: str, shapes: Shapes) -> set[str]:
    """Numbers of layers, as text: int() refuses one of thousands of digits."""
    return {found[1] for name in shapes if (found := re.search(pattern, name))}


def _fit_rows(folder: Path, where: str, shapes: Shapes) -> None:
    """Raises UserError when the first layer's weights have other heads or another width."""
    config, known = text_config(str(folder), where), _widths(folder, where)
    for name, fields in _ROWS.items():
        tensor = f"model.layers.0.{name}.weight"
        if tensor not in shapes or not known.keys() >= set(fields):
            continue
        if math.prod(known[field] for field in fields) != shapes[tensor][0]:
            quotient = {f: _QUOTIENT for f in fields if config.get(f) is None}
            said = " times ".join(f"{f} = {known[f]}{quotient.get(f, '')}" for f in fields)
            raise UserError(
                f"{where}: config.json: {said}, and {tensor} has {shapes[tensor][0]} rows; {_OWN_CONFIG}"
            )


def _widths(folder: Path, where: str) -> dict[str, int]:
    """The fields of `_ROWS` that config.json has, and a head's size where it follows from others."""
    config = text_config(str(folder), where)
    known = {
        field: whole_number(str(folder), field, where=where)
        for field in ("hidden_size", *itertools.chain(*_ROWS.values()))
        if config.get(field) is not None
    }
    from_others = {"hidden_size", "num_attention_heads"} <= known.keys()
    if from_others and "head_dim" not in known and config["model_type"] in _DIVIDED:
        known["head_dim"] = known["hidden_size"] // known["num_attention_heads"]
    return known


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
    loaded = [tensors[name] for name in tensors if not placed or name in expected]
    return {name: shape for shapes in loaded for name, shape in shapes.items()}


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
        if _head(file).startswith(GIT_LFS):
            raise UserError(f"{where}: {file.name} {IS_POINTER}")
        with safe_open(file, "np") as weights:
            return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size if file.exists() else 0
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise UserError(
            f"{where}: {file.name} is cut or damaged at {size} bytes ({reason}); copy it again"
        ) from None


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(len(GIT_LFS))
