"""Types and conditions that several sections of the config have."""

from typing import Annotated, Literal

from pydantic import Field

from lr_ray.config.resources import AutoOr
from lr_ray.config.section import Section

Processes = AutoOr[Annotated[int, Field(ge=1, le=1024)]]

CONTRAST, REJECTION = ("sampling.method", "contrast"), ("sampling.method", "rejection")
# Selection rules that choose among the steps of a batch.
OF_A_BATCH = ("random", "top", "entropy", "quadrant")

Dtype = Literal["float32", "bfloat16"]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Fields(Section):
    problem: str = Field(default="problem", min_length=1)
    """Field of the text."""
    id: str | None = Field(default=None, min_length=1)
    """Field of the id; null makes ids of the texts."""
    answer: str | None = Field(default="answer", min_length=1)
    """Field of the answer; null for none (None on the command line)."""
