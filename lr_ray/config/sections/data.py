"""Section `data`: the problems that are sampled."""

from lr_ray.config.effects import On, setting
from lr_ray.config.section import Section
from lr_ray.config.sections.common import REJECTION, Fields


class Data(Section):
    source: str = setting("trajectories", default="demo", min_length=1)
    """demo, gsm8k, math or another benchmark, reasoning_gym:GENERATOR, org/name[:config] of the Hugging Face
    hub, a path, URI or glob of .jsonl, .jsonl.gz or .parquet, or a plugin's source, NAME[:PARAMETER]."""
    split: str = setting("trajectories", default="train", min_length=1)
    """Split of a benchmark or hub data set."""
    data_dir: str | None = setting("trajectories", default=None, min_length=1)
    """Folder with <benchmark>/<split>.jsonl; null takes benchmarks from the hub."""
    fields: Fields = setting("trajectories", default=Fields())
    grader: str | None = setting(On("trajectories", REJECTION), default=None, min_length=1)
    """How sampling.method rejection grades answers of files and plugins: math, choice, exact, number, a
    plugin's grader or module:object; null takes a plugin's rows' field grader, else math."""
    shuffle: bool = setting("trajectories", default=False)
    """Take problems in an order by a hash of seed and id, which reads the whole source, and keeps up to twice
    sampling.max_problems of it on disk; demo is random already."""
    seed: int = setting("trajectories", default=0, ge=0)
    """Seed of the demo's problems and the shuffle."""
    skip: int | None = setting(On("trajectories", if_set=True), default=None, ge=1)
    """Problems of the source to leave out first, in the order in which they are taken."""
    repeat_in_rounds: bool = setting("rounds", default=False)
    """Sample the same problems in each of the rounds, instead of the next of the source."""
