"""The embedded pair: a tiny expert, a tiny amateur and the problems that they were made on.

A synthetic demonstration of the whole pipeline that needs no download; `recipes.embedded_pair` trains both.

    python -c "from lr_ray.embedded import expert_path; print(expert_path())"
"""

from pathlib import Path

from lr_ray.embedded.problems import generate


def expert_path() -> Path:
    """The Hugging Face directory of the shipped expert."""
    return Path(__file__).parent / "expert"


def amateur_path() -> Path:
    """The Hugging Face directory of the shipped amateur."""
    return Path(__file__).parent / "amateur"
