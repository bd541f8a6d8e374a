"""Values of a config.json that no engine knows, so that they are named before one starts.

Of the architectures of one form alone, whose values vLLM 0.29 restricts (`model_executor/models`,
`layers/rotary_embedding`). Exercised by `pytest tests/unit/test_model_files.py`.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from lr_ray.errors import UserError

_DTYPES = re.compile(r"(torch\.)?(auto|half|double|float|bfloat16|float(16|32|64|8_\w+))")
_SILU = ("llama", "mistral", "qwen2", "qwen3")
_ROPES = ("default", "linear", "dynamic", "ntk", "yarn", "longrope", "llama3", "proportional")
_OLD_ROPES = ("su", "mrope")  # which vLLM reads as others


def check_values(config: dict[str, Any], where: str) -> None:
    """Raises UserError, beginning with `where`, for a value that engines do not know."""
    for field in ("dtype", "torch_dtype"):
        if config.get(field) is not None and not _DTYPES.fullmatch(str(config[field])):
            said = f"{field} = {config[field]!r:.100}: must be as bfloat16, float16 or float32"
            raise UserError(f"{where}: config.json: {said}")
    if config.get("model_type") in _SILU and config.get("hidden_act", "silu") != "silu":
        said = f"hidden_act = {config['hidden_act']!r:.100}: vLLM runs this architecture with silu alone"
        raise UserError(f"{where}: config.json: {said}")
    for field in ("rope_theta", "rms_norm_eps"):
        value = config.get(field)
        number = isinstance(value, int | float) and math.isfinite(value) and value > 0
        if value is not None and (isinstance(value, bool) or not number):
            said = f"{field} = {value!r:.100}: must be a number above 0"
            raise UserError(f"{where}: config.json: {said}")
    for field, kind in _ropes(config):
        if kind not in (*_ROPES, *_OLD_ROPES):
            said = f"{field} = {kind!r:.100}: must be one of {', '.join(_ROPES)}"
            raise UserError(f"{where}: config.json: {said}")


def _ropes(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values of the rope types, which may be of each kind of layer."""
    for field in ("rope_scaling", "rope_parameters"):
        rope = config.get(field)
        inner = rope if isinstance(rope, dict) else {}
        of_layers = {f"{field}.{key}": of for key, of in inner.items() if isinstance(of, dict)}
        for name, values in {field: inner, **of_layers}.items():
            for key in ("rope_type", "type"):
                if values.get(key) is not None:
                    yield f"{name}.{key}", values[key]
