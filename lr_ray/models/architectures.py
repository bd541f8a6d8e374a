"""Which model classes can be an amateur: those that vLLM's registry has for text generation.

The registry's file is read, not imported: importing it takes torch and seconds.
Exercised by `pytest tests/unit/test_models.py tests/integration/test_scorer.py`.
"""

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from lr_ray.errors import UserError
from lr_ray.models.files import architecture, nested_in, read_object

_REGISTRY = "model_executor/models/registry.py"  # in vLLM 0.29
_MULTIMODAL = "it is a multimodal model, and only text models can"
_POOLING = "vLLM serves it for pooling only, without logits"
# Tables of the registry, and why their models cannot score.
_REFUSED = {
    "_MULTIMODAL_MODELS": _MULTIMODAL,
    "_TRANSFORMERS_SUPPORTED_MODELS": _MULTIMODAL,  # those that are not scorable
    "_SPECULATIVE_DECODING_MODELS": "it is a draft model for speculative decoding",
    "_EMBEDDING_MODELS": _POOLING,
    "_LATE_INTERACTION_MODELS": _POOLING,
    "_REWARD_MODELS": _POOLING,
    "_TOKEN_CLASSIFICATION_MODELS": _POOLING,
    "_SEQUENCE_CLASSIFICATION_MODELS": _POOLING,
    "_PREVIOUSLY_SUPPORTED_MODELS": "the installed vLLM has dropped it",
}


@cache
def _tables() -> dict[str, dict[str, Any]]:
    """The registry's tables by name, each from architecture to module and class; none without vLLM."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return {}
    file = Path(spec.submodule_search_locations[0], _REGISTRY)
    tables = {}
    for line in ast.parse(file.read_text()).body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Dict):
            tables[ast.unparse(line.targets[0])] = {
                str(key.value): ast.literal_eval(value)
                for key, value in zip(line.value.keys, line.value.values, strict=True)
                if isinstance(key, ast.Constant)
            }
    return tables


@cache
def scorable() -> frozenset[str]:
    """Architectures that vLLM has a text generation class for, its own or one around transformers."""
    tables = _tables()
    around = tables.get("_TRANSFORMERS_SUPPORTED_MODELS", {})
    text = {name for name, (_, class_) in around.items() if "MultiModal" not in class_}
    return frozenset(text.union(tables.get("_TEXT_GENERATION_MODELS", {})))


def check_scores(path: str, where: str) -> None:
    """Raises UserError that begins with `where` unless the scorer can wrap the model's class.

    Without vLLM nothing is known, and `lr-ray doctor` says what is missing.
    """
    name, config = architecture(path, where), read_object(Path(path, "config.json"), where)
    if config.get("is_encoder_decoder"):
        reason: str | None = "it is an encoder-decoder, and only decoders can"
    elif nested_in(config):
        reason = _MULTIMODAL
    elif name in scorable() or not _tables():
        return
    else:
        found = (why for table, why in _REFUSED.items() if name in _tables().get(table, {}))
        reason = next(found, None)
    reason = reason or "vLLM's registry has no text generation model of that name"
    raise UserError(f"{where}: {name} cannot score: {reason}")
