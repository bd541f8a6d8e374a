"""The tensors that a model of a plain architecture has, by its config.json, beside those that are there.

vLLM and transformers run a model that lacks some, with random values in their place. Names and shapes are
those of transformers 5. Exercised by `pytest tests/unit/test_model_tensors.py`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lr_ray.errors import UserError
from lr_ray.models.files import Shapes, weight_files

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_BLOCK = 1 << 24  # bytes that are compared at once

Sizes = tuple[int | None, ...]  # None where config.json does not say it


def check_tensors(
    folder: Path, where: str, config: dict[str, Any], known: Mapping[str, int], shapes: Shapes
) -> None:
    """Raises UserError for the first tensor that is missing, has another shape than config.json says, or
    has no place in the model.

    `known` are the sizes that config.json gives, by field.
    """
    places = {_HEAD}
    for name, sizes in _expected(config, known):  # lazily: config.json may say any number of layers
        places.add(name)
        if name not in shapes:
            raise UserError(f"{where}: the weights have no {name}{_why(name, config)}")
        found = shapes[name]
        if len(found) != len(sizes) or any(
            size not in (None, is_) for size, is_ in zip(sizes, found, strict=True)
        ):
            said = " x ".join("?" if size is None else str(size) for size in sizes)
            raise UserError(
                f"{where}: {name} is {' x '.join(map(str, found))}, and by config.json {said}; "
                "copy weights and config.json of one model"
            )
    # Both pass over what they have no place for: vLLM biases, transformers anything.
    more = (n for n in shapes.keys() - places if n.startswith(("model.", "lm_head.")))
    if extra := min((n for n in more if not n.endswith(".inv_freq")), default=None):
        raise UserError(
            f"{where}: the weights have {extra}, which {config['architectures'][0]} does not have by "
            "config.json, and would run without; copy weights and config.json of one model"
        )
    if is_tied(config) and _HEAD in shapes and not _same(folder, shapes):
        raise UserError(
            f"{where}: config.json ties {_HEAD} to {_EMBEDDING} (tie_word_embeddings), and the weights "
            "have another, which training would take and vLLM not; set tie_word_embeddings = false, or "
            f"take {_HEAD} out"
        )


def is_tied(config: dict[str, Any]) -> bool:
    """Whether the output layer is the embedding; where config.json does not say, as transformers has it."""
    return bool(config.get("tie_word_embeddings", config["model_type"].startswith("gemma")))


def _why(name: str, config: dict[str, Any]) -> str:
    if name != _HEAD:
        return f", which {config['architectures'][0]} has; copy all of the model's weights"
    given = "tie_word_embeddings" in config
    said = "is false" if given else "is not in config.json, which means false"
    return (
        f", and tie_word_embeddings {said}; set it to true if the embedding is the output layer too, "
        "else copy all of the model's weights"
    )


def _expected(config: dict[str, Any], known: Mapping[str, int]) -> Iterator[tuple[str, Sizes]]:
    """Names and shapes of all tensors."""
    hidden, rows = known.get("hidden_size"), known.get("vocab_size")
    layer = _layer(config, known)
    yield _EMBEDDING, (rows, hidden)
    for number in range(known.get("num_hidden_layers", 1)):
        for name, sizes in layer.items():
            yield f"model.layers.{number}.{name}", sizes
    yield "model.norm.weight", (hidden,)
    if not is_tied(config):
        yield _HEAD, (rows, hidden)


def _layer(config: dict[str, Any], known: Mapping[str, int]) -> dict[str, Sizes]:
    """Names and shapes of a layer's tensors."""
    kind, hidden = config["model_type"], known.get("hidden_size")
    inner, head = known.get("intermediate_size"), known.get("head_dim")
    wide, narrow = (
        known[heads] * head if head and heads in known else None
        for heads in ("num_attention_heads", "num_key_value_heads")
    )
    qkv = {"self_attn.q_proj": wide, "self_attn.k_proj": narrow, "self_attn.v_proj": narrow}
    into = {"mlp.gate_proj": inner, "mlp.up_proj": inner}
    out: dict[str, Sizes] = {"self_attn.o_proj": (hidden, wide), "mlp.down_proj": (hidden, inner)}
    linear: dict[str, Sizes] = {name: (rows, hidden) for name, rows in (qkv | into).items()} | out
    norms = ["input_layernorm", "post_attention_layernorm"]
    if kind in ("gemma2", "gemma3_text"):
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    vectors = dict.fromkeys(norms, hidden)
    if kind in ("qwen3", "gemma3_text"):
        vectors |= {"self_attn.q_norm": head, "self_attn.k_norm": head}
    biased = list(qkv) if kind == "qwen2" else []
    if config.get("attention_bias") and kind not in ("qwen2", "mistral"):
        biased += [*qkv, "self_attn.o_proj"]
    if config.get("mlp_bias") and kind == "llama":
        biased += [*into, "mlp.down_proj"]
    return (
        {f"{name}.weight": sizes for name, sizes in linear.items()}
        | {f"{name}.weight": (size,) for name, size in vectors.items()}
        | {f"{name}.bias": linear[name][:1] for name in biased}
    )


def _same(folder: Path, shapes: Shapes) -> bool:
    """Whether the output layer is the embedding to the byte."""
    if shapes[_HEAD] != shapes[_EMBEDDING]:
        return False
    pair = (_content(folder, name) for name in (_HEAD, _EMBEDDING))
    return all(ours == theirs for ours, theirs in zip(*pair, strict=True))


def _content(folder: Path, tensor: str) -> Iterator[bytes]:
    """A tensor's dtype, and its bytes; numpy has no bfloat16."""
    for name in weight_files(folder, str(folder)):
        with (folder / name).open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
            if tensor in header:
                start, end = header[tensor]["data_offsets"]
                yield header[tensor]["dtype"].encode()
                stream.seek(8 + size + start)
                for first in range(start, end, _BLOCK):
                    yield stream.read(min(_BLOCK, end - first))
                return
