"""LoRA adapters as they are served: beside the model they were trained from, on its engine.

Exercised by `pytest tests/unit/test_adapters.py`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lr_ray.config.sections.serving import RANKS
from lr_ray.errors import UserError
from lr_ray.models.files import check_weights, read_object

CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Of PEFT: vLLM 0.29 refuses the first five when its engine has started, and passes over the others, which
# scale each layer's update in a way of its own (`lora/peft_helper.py`).
_UNSERVED = (
    "bias", "modules_to_save", "use_dora", "trainable_token_indices", "lora_bias",
    "alpha_pattern", "rank_pattern",
)  # fmt: skip


def is_adapter(path: str) -> bool:
    """Whether a directory holds an adapter in PEFT's form, and no model."""
    adapter, model = (os.path.isfile(os.path.join(path, f)) for f in (CONFIG, "config.json"))
    return adapter and not model


def check_adapter(folder: Path, where: str) -> None:
    """Raises UserError that begins with `where` for an adapter that vLLM cannot serve, or half of one."""
    config = read_object(folder / CONFIG, where)
    if config.get("peft_type") != "LORA":
        found = config.get("peft_type")
        raise UserError(f"{where}: {CONFIG}: peft_type = {found!r}: only LORA can be served")
    rank = config.get("r")
    if type(rank) is not int or not 1 <= rank <= RANKS[-1]:
        raise UserError(f"{where}: {CONFIG}: r = {rank!r}: must be 1 to {RANKS[-1]} to be served")
    unserved = [name for name in _UNSERVED if config.get(name) not in (None, False, "none", [], {})]
    if str(config.get("init_lora_weights")).startswith(("pissa", "olora", "corda", "loftq")):
        unserved.append("init_lora_weights")  # for which PEFT changes the base's weights too
    for name in unserved:
        said = f"{name} = {config[name]!r:.100}: cannot be served as it is; serve the model merged with it"
        raise UserError(f"{where}: {CONFIG}: {said}")
    check_adapter_weights(folder, where)


def check_adapter_weights(folder: Path, where: str) -> None:
    """Raises UserError that begins with `where` unless its weights are whole and found by vLLM and PEFT."""
    check_weights(folder, where)
    if not (folder / _WEIGHTS).is_file():
        other = min(file.name for file in folder.glob("[!.]*.safetensors"))
        raise UserError(
            f"{where}: no {_WEIGHTS}, the only name by which vLLM and PEFT find an adapter; rename {other}"
        )


def with_adapters(models: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Names and directories, parted into whole models and adapters of the only one. Raises UserError."""
    adapters = {name: path for name, path in models.items() if is_adapter(path)}
    whole = {name: path for name, path in models.items() if name not in adapters}
    if adapters and len(whole) != 1:
        raise UserError(
            f"models: {', '.join(adapters)} are adapters, which need one model to stand on, the one "
            f"that they were trained from, and {', '.join(whole) or 'none'} is given; serve that "
            "one beside them"
        )
    return whole, adapters


def check_on_gpu(dtype: str) -> None:
    """Raises UserError for adapters on a GPU in a `dtype` that vLLM's `lora_shrink_op.py` refuses."""
    if dtype == "float32":
        raise UserError(
            "serving.dtype float32: vLLM serves adapters on a GPU in bfloat16 alone; give --serving.dtype "
            "bfloat16, or merged models: of a run by --serving.adapters false"
        )


def ranks_of(adapters: Mapping[str, str]) -> tuple[int, ...]:
    """Their ranks, as their files say."""
    return tuple(read_object(Path(path, CONFIG), path)["r"] for path in adapters.values())


def slots_of(ranks: Sequence[int]) -> tuple[int, int]:
    """Adapters that an engine of adapters of these ranks has room for, and the rank of each of them.

    One stays empty: vLLM's CPU kernels read the last (index -1) for requests without an adapter.
    """
    return len(ranks) + 1, next(rank for rank in RANKS if rank >= max(ranks))


def engine_options(adapters: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of vLLM's engine and front end by which these answer to their names."""
    if not adapters:
        return {}
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath

    slots, rank = slots_of(ranks_of(adapters))
    return {
        "enable_lora": True,
        "max_loras": slots,
        "max_lora_rank": rank,
        "lora_modules": [LoRAModulePath(name=n, path=p) for n, p in adapters.items()],
    }
