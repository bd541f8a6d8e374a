"""What a page is made of: a run directory, each part of it read once and only when a section asks.

Shape suffixes: N steps, R trajectories, L steps with a label. Exercised by `pytest tests/unit/page`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lr_ray.config import Sampling, value_at
from lr_ray.errors import UserError
from lr_ray.labelling.label import steps_of
from lr_ray.method.contrast import entropy_terms
from lr_ray.method.rules import Steps
from lr_ray.models.models import resolve_model
from lr_ray.problems import PROBLEM
from lr_ray.report.page.words import Words
from lr_ray.run.asked import is_imported
from lr_ray.run.schemas import SCORES, SUPERVISION
from lr_ray.run.store import Run

MOST_STEPS = 2_000_000  # that are read of a run's scores; what is beyond is said to be left out


@dataclass
class Scored:
    """The scored trajectories of a run, and what was kept of them."""

    scores: pa.Table
    steps: Steps
    supervision: pa.Table  # of these trajectories, in no order
    kept_L: NDArray[np.int64]  # which of the N steps were kept, in the supervision's order
    entropy_L: NDArray[np.float64]  # of each label, nats
    preferred_L: NDArray[np.int32]  # a label's most probable token; the expert's own of equal ones

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        keep_N = np.zeros(len(self.steps.kl), bool)
        keep_N[self.kept_L] = True
        return keep_N


@dataclass
class Source:
    """`summary` is summary.json, `found` what else the page is about (comparison.json, probe.json)."""

    run: Run
    summary: dict[str, Any]
    found: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def asked(self) -> dict[str, Any]:
        return self.run.read_json("run.json") if self.run.exists("run.json") else {}

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.asked.get("config", {}))

    @property
    def imported(self) -> bool:
        return is_imported(self.asked)

    def part(self, name: str, *fields: str) -> dict[str, Any] | None:
        """A part of the summary with these fields; None where there is none, or an older version's."""
        part = self.summary.get(name, {})
        return part if all(field in part for field in fields) else None

    @cached_property
    def tables(self) -> dict[str, pa.Table]:
        """Every answer, by task."""
        return {name: self.run.answers(name) for name in self.summary.get("accuracy", {})}

    @cached_property
    def words(self) -> Words | None:
        """Tokens as text; None where the expert's directory is not to be had."""
        path = value_at(self.asked, "models.expert.path")
        reference = path or value_at(self.config, "models.expert")
        if not reference:
            return None
        try:
            return Words(resolve_model(reference, "models.expert"))
        except UserError:
            return None

    @cached_property
    def scored(self) -> Scored | None:
        """At most MOST_STEPS of the scored steps; None where there are none with a supervision."""
        if "sampling" not in self.config or not self.run.shards("supervision"):
            return None
        scores = self._first_scores()
        if not scores.num_rows:
            return None
        steps = steps_of(scores, Sampling.model_validate(self.config["sampling"]))
        start_of = dict(zip(steps.problem_ids, steps.starts.tolist(), strict=True))
        wanted = pa.array(list(start_of), pa.string())
        parts = [SUPERVISION.empty_table()]
        for table in self._each("supervision", SUPERVISION):
            parts.append(table.filter(pc.is_in(table["problem_id"], wanted)))
            if sum(part.num_rows for part in parts) == len(wanted):
                break
        supervision = pa.concat_tables(parts).combine_chunks()
        starts_R = np.array([start_of[i] for i in supervision["problem_id"].to_pylist()], np.int64)
        return Scored(scores, steps, supervision, *_labels(supervision, starts_R, steps.completion))

    @cached_property
    def problems(self) -> dict[str, str]:
        """Text of each problem that was sampled, by id."""
        table = self.run.read_tables(self.run.shards("problems"), PROBLEM)
        columns = (table[name].to_pylist() for name in ("problem_id", "problem"))
        return dict(zip(*columns, strict=True))

    def _first_scores(self) -> pa.Table:
        parts, steps = [SCORES.empty_table()], 0
        for table in self._each("scores", SCORES):
            parts.append(table)
            steps += pc.sum(pc.list_value_length(table["kl"])).as_py() or 0
            if steps >= MOST_STEPS:
                break
        return pa.concat_tables(parts).combine_chunks()

    def _each(self, folder: str, schema: pa.Schema) -> Iterator[pa.Table]:
        for name in self.run.shards(folder):
            yield self.run.read_tables([name], schema)


def _labels(
    supervision: pa.Table, starts_R: NDArray[np.int64], completion_N: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int32]]:
    """Of each kept step: which it is, its label's entropy (nats), and the token that the label prefers."""
    rows = supervision["steps"].combine_chunks()
    counts_R = pc.list_value_length(rows).to_numpy(zero_copy_only=False)
    steps = rows.flatten()
    kept_L = np.repeat(starts_R, counts_R) + steps.field("position").to_numpy()
    ids, weights = (steps.field(name).flatten().to_numpy() for name in ("token_ids", "weights"))
    sizes_L = pc.list_value_length(steps.field("token_ids")).to_numpy(zero_copy_only=False)
    if not len(sizes_L):
        return kept_L, np.empty(0), np.empty(0, np.int32)
    first_L = np.cumsum(sizes_L) - sizes_L
    entropy_L = np.add.reduceat(entropy_terms(weights), first_L)
    own = np.repeat(completion_N[kept_L], sizes_L) == ids
    # Ordered by step, weight and whether it is the expert's: the last of each step is the preferred one.
    order = np.lexsort((own, weights, np.repeat(np.arange(len(sizes_L)), sizes_L)))
    return kept_L, entropy_L, ids[order][first_L + sizes_L - 1]
