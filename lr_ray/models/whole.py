"""Checks that the files of a model directory are complete and of one model: config, weights, tokenizer.

Exercised by `pytest tests/unit/test_model_files.py`.
"""

import itertools
import math
import re
from pathlib import Path
from typing import Any

from lr_ray.errors import UserError
from lr_ray.models import files
from lr_ray.models.files import Shapes
from lr_ray.models.tensors import check_tensors
from lr_ray.models.values import check_values

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
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers")
_OWN_CONFIG = "put the weights' own config.json beside them"
_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json", "*.model", "*.tiktoken")


def check_files(folder: Path, where: str) -> None:
    """Raises UserError that begins with `where` when a file is missing or not whole.

    Of the weights, headers and sizes are read and compared with the index.
    """
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        what = ", but an adapter; give the model merged with it" if adapter else ""
        raise UserError(f"{where}: no config.json{what or '; give a Hugging Face model directory'}")
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{where}: holds an adapter beside the model; give the merged model, or move adapter_* away"
        )
    for read in (files.architecture, files.vocabulary_rows, files.context_length):
        read(str(folder), where)
    shapes = files.check_weights(folder, where)
    files.check_same_files(folder, where)
    _fit(folder, where, shapes)
    check_tokenizer(folder, where)


def check_tokenizer(folder: Path, where: str) -> None:
    """Raises UserError when no file holds the tokenizer, or one is not whole."""
    found = [file for pattern in _TOKENIZERS for file in sorted(folder.glob(pattern))]
    if not found:
        raise UserError(f"{where}: no tokenizer.json; put the model's tokenizer beside its weights")
    for file in [*found, *folder.glob("tokenizer_config.json"), *folder.glob("chat_template*")]:
        if file.suffix == ".json":
            files.read_object(file, where)
        elif file.is_file():
            files.check_head(files.head(file), file.name, where)


def _fit(folder: Path, where: str, shapes: Shapes) -> None:
    """Raises UserError when the config is of another model than the weights."""
    config = files.read_object(folder / "config.json", where)
    if config.get("model_type") is None:
        raise UserError(f"{where}: config.json has no model_type; add it, as qwen2")
    if files.nested_in(config):
        return
    if _PLAIN.get(config["architectures"][0]) == config["model_type"]:
        check_values(config, where)
    for name, shape in shapes.items():
        if name.endswith("embed_tokens.weight") and len(shape) == 2:
            for field, size in zip(("vocab_size", "hidden_size"), shape, strict=True):
                if files.whole_number(str(folder), field, where=where) != size:
                    raise UserError(
                        f"{where}: config.json: {field} = {config[field]}, and {name} has {size}; "
                        f"{_OWN_CONFIG}"
                    )
    plain = _is_plain(config, shapes)
    _fit_layers(folder, where, shapes, plain)
    if plain:
        known = _widths(folder, where, config)
        _fit_rows(where, config, known, shapes)
        check_tensors(folder, where, config, known, shapes)
    elif _lacks_output(config, shapes):
        raise UserError(
            f"{where}: the weights have no output layer, as lm_head.weight, and tie_word_embeddings is "
            "false; set it to true if the embedding is that too, else copy all of the model's weights"
        )


def _is_plain(config: dict[str, Any], shapes: Shapes) -> bool:
    """Whether layers and shapes must be as config.json says; false where that is not certain."""
    name = config["architectures"][0]
    return (
        name in _PLAIN
        and config.get("model_type") == _PLAIN[name]
        # Layers that predict more tokens are counted apart, and quantised weights may be packed.
        and not any(re.search("nextn|mtp|quantization|compression", field) for field in config)
        and all(
            shape and tensor.endswith((".weight", ".bias", ".inv_freq"))
            for tensor, shape in shapes.items()
        )
    )


def _lacks_output(config: dict[str, Any], shapes: Shapes) -> bool:
    """Whether nothing turns hidden states into logits; false where that is not certain."""
    return (
        config.get("tie_word_embeddings") is False
        and "model.embed_tokens.weight" in shapes
        and not any(re.search("head|out|unembed|logit|score", name) for name in shapes)
    )


def _fit_layers(folder: Path, where: str, shapes: Shapes, plain: bool) -> None:
    """Raises UserError when the weights lack a layer of config.json's count, or `plain` ones have more."""
    layers = _layers(r"\blayers\.(\d+)\.", shapes)
    wanted = files.whole_number(str(folder), "num_hidden_layers", where=where) if layers else 0
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


def _fit_rows(where: str, config: dict[str, Any], known: dict[str, int], shapes: Shapes) -> None:
    """Raises UserError when the first layer's weights have other heads or another width."""
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


def _widths(folder: Path, where: str, config: dict[str, Any]) -> dict[str, int]:
    """The fields of `_SIZES` and `_ROWS` that config.json has, and a head's size where others give it."""
    known = {
        field: files.whole_number(str(folder), field, where=where)
        for field in (*_SIZES, *itertools.chain(*_ROWS.values()))
        if config.get(field) is not None
    }
    from_others = {"hidden_size", "num_attention_heads"} <= known.keys()
    if from_others and "head_dim" not in known and config["model_type"] in _DIVIDED:
        known["head_dim"] = known["hidden_size"] // known["num_attention_heads"]
    return known
