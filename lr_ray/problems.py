"""Problems to sample from: rows of `problem_id, problem, answer or null`, by the source's name."""

from lr_ray import embedded
from lr_ray.config import Config
from lr_ray.errors import UserError

SOURCES = ("demo",)


def check_source(config: Config) -> None:
    """Raises UserError naming data.source when there is no such source."""
    if config.data.source not in SOURCES:
        raise UserError(
            f"data.source: {config.data.source!r} is not a known source; give one of "
            + ", ".join(SOURCES)
        )


def load_problems(config: Config) -> list[dict[str, str]]:
    """Rows of the configured source, at most `sampling.max_problems`."""
    check_source(config)
    return embedded.generate("sampling", config.sampling.max_problems, config.data.seed)


INDEX = "problems/index.json"


def stage_problems(run, config):
    import pyarrow as pa

    n = config.sampling.max_problems
    rows = [
        dict(r, file="demo", row=i + 1)
        for i, r in enumerate(embedded.generate("sampling", n, config.data.seed))
    ]
    run.write_table("problems/part-00000.parquet", pa.Table.from_pylist(rows))
    run.write_json(INDEX, {"problems": n, "rejected": 0})
    return n


def read_problems(run, rows):
    import pyarrow.parquet as pq

    return pq.read_table(run.path("problems/part-00000.parquet"), filesystem=run.fs).take(rows)
