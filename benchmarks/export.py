"""Export: seconds and memory from trained weights to a checked, merged model on disk, with random weights.

    python benchmarks/export.py [--size qwen2.5-math-1.5b] [--scratch DIR]

Writes a base model of the size in bfloat16 (3 GB for the default), then exports LoRA weights on it as a
training worker does: starting from one thread, on the GPU where there is one.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: as a training worker on CPU has

import torch
from training import SIZES, random_model

from lr_ray.config import Training
from lr_ray.training.export import export
from lr_ray.training.model import with_lora


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def make(size: str, folder: Path) -> dict[str, torch.Tensor]:
    """Saves a base model; returns trained weights for it, by the names of `Engine.weights`."""
    model = random_model(size, torch.device("cpu"), "bfloat16")
    model.save_pretrained(folder)
    torch.manual_seed(0)
    return {
        name.replace(".default", ""): torch.randn_like(weight, dtype=torch.float32) * 0.02
        for name, weight in with_lora(model, Training()).named_parameters()
        if weight.requires_grad
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="qwen2.5-math-1.5b")
    parser.add_argument("--scratch", help="folder for the models; default a temporary one")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="lr_ray-", dir=args.scratch) as scratch:
        base, target = Path(scratch, "base"), Path(scratch, "export")
        weights = make(args.size, base)
        torch.set_num_threads(1)
        started, spent = time.monotonic(), time.process_time()
        gap = export(weights, str(base), args.size, target, Training(), device)
        seconds, spent = time.monotonic() - started, time.process_time() - spent
        size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(
        f"{args.size} on {device}: {seconds:.1f} s, {spent:.1f} s of processors, "
        f"{size / 1e9:.1f} GB written, logit gap {gap:.2g}, peak memory {peak_gigabytes():.1f} GB"
    )


if __name__ == "__main__":
    main()
