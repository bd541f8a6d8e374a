"""Which models vLLM runs, and which can be an amateur: those that its registry has for text generation.

The registry's files are read, not imported: importing them takes torch and seconds.
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
# Of vLLM too: it has the model_type of configs that transformers lacks.
_KINDS = "transformers_utils/config.py"
_MULTIMODAL = "it is a multimodal model, and only text models can"
_POOLING = "vLLM serves it for pooling only, without logits"
# Tables of the registry whose models generate; classes in none may be run by way of transformers.
_GENERATE = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")
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


def _statements(file: str) -> list[ast.stmt]:
    """Of a file of vLLM; none without it."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return []
    return ast.parse(Path(spec.submodule_search_locations[0], file).read_text()).body


@cache
def _tables() -> dict[str, dict[str, Any]]:
    """The registry's tables by name, each from architecture to module and class; none without vLLM."""
    tables = {}
    for line in _statements(_REGISTRY):
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


@cache
def _kinds() -> frozenset[str]:
    """Each model_type that vLLM or transformers has a config of."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kinds = [
        keyword.arg
        for line in _statements(_KINDS)
        if isinstance(line, ast.AnnAssign) and isinstance(line.value, ast.Call)
        for keyword in line.value.keywords
    ]
    return frozenset({*CONFIG_MAPPING_NAMES, *filter(None, kinds)})


def check_runs(path: str, where: str) -> None:
    """Raises UserError that begins with `where` for a model that vLLM cannot generate with.

    Without vLLM nothing is known, and `lr-ray doctor` says what is missing.
    """
    name, tables = architecture(path, where), _tables()
    _check_kind(path, where)
    if any(name in tables.get(table, ()) for table in _GENERATE):
        return
    found = (why for table, why in _REFUSED.items() if name in tables.get(table, {}))
    if reason := next(found, None):
        raise UserError(f"{where}: {name} cannot generate: {reason}")


def _check_kind(path: str, where: str) -> None:
    """Raises UserError for a config.json that neither vLLM nor transformers can read."""
    config = read_object(Path(path, "config.json"), where)
    kind = config.get("model_type")
    if _tables() and kind not in _kinds():
        said = f"model_type = {kind!r:.100}: is of no model that vLLM or transformers knows"
        own = "; a model's own code (auto_map) is not run" if "auto_map" in config else ""
        raise UserError(f"{where}: config.json: {said}{own}")


def check_scores(path: str, where: str) -> None:
    """Raises UserError that begins with `where` unless the scorer can wrap the model's class."""
    name, config = architecture(path, where), read_object(Path(path, "config.json"), where)
    _check_kind(path, where)
    if config.get("is_encoder_decoder"):
        reason: str | None = "it is an encoder-decoder, and only decoders can"
    elif nested_in(config):
        reason = _MULTIMODAL
    elif name in scorable() or not _tables():  # without vLLM nothing is known
        return
    else:
        found = (why for table, why in _REFUSED.items() if name in _tables().get(table, {}))
        reason = next(found, None)
    reason = reason or "vLLM's registry has no text generation model of that name"
    raise UserError(f"{where}: {name} cannot score: {reason}")
