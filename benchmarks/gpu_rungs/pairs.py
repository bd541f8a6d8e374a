"""Which expert and amateur a rung measures: given, cached, converted, embedded, or of random weights."""

import shutil
from pathlib import Path
from typing import NamedTuple

import torch

from .options import HUB, SHAPES, Options

PEAKED = 8.0  # factor on the final norm


class Pair(NamedTuple):
    name: str
    expert: str
    amateur: str


def real_pair(options: Options) -> Pair | None:
    """Real weights: given, or at size tiny the embedded pair, or the size's own from the hub's cache."""
    if options.pair:
        expert, amateur = options.pair
        return Pair(f"{expert.name} and {amateur.name}", str(expert), str(amateur))
    if options.tiny:
        from lr_ray.embedded import amateur_path, expert_path

        return Pair("the embedded pair", str(expert_path()), str(amateur_path()))
    return cached_pair(options.size)


def cached_pair(size: str) -> Pair | None:
    """The size's pair where both are in Hugging Face's cache whole; nothing is fetched."""
    from huggingface_hub import snapshot_download

    expert, amateur = HUB[size]
    try:
        paths = [snapshot_download(name, local_files_only=True) for name in (expert, amateur)]
    except Exception:  # the hub raises its own kinds for each way to lack a file
        return None
    if not all(any(Path(path).glob("*.safetensors")) for path in paths):
        return None
    return Pair(f"{expert} and {amateur}", *paths)


def smollm2_pair() -> Pair | None:
    import smollm2

    if smollm2.missing():
        return None
    expert, amateur = smollm2.make_pair()
    return Pair("the SmolLM2 pair of benchmarks/smollm2.py", str(expert), str(amateur))


def random_pair(options: Options, folder: str) -> Pair:
    """The size's shapes with random weights under `folder`, and the embedded expert's tokenizer.

    Times like the real pair. The final norm is scaled, so that next-token distributions are about as
    peaked as a language model's: flat ones would have plausible sets of thousands of tokens.
    """
    from training import random_model

    from lr_ray.embedded import expert_path

    paths: list[str] = []
    for role, size in zip(("expert", "amateur"), SHAPES[options.size], strict=True):
        path = Path(folder, role)
        torch.manual_seed(len(paths))
        model = random_model(size, torch.device(options.device), options.dtype)
        with torch.no_grad():
            model.model.norm.weight.mul_(PEAKED)
        model.save_pretrained(path)
        del model
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(expert_path() / name, path)
        paths.append(str(path))
    if options.device == "cuda":
        torch.cuda.empty_cache()
    return Pair(f"random weights of {' and '.join(SHAPES[options.size])}", *paths)
