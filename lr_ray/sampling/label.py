"""Trajectories with both models' log-probabilities to supervision rows and what a shard says of them."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lr_ray.config import Sampling
from lr_ray.contrast import Exchange, diverge, soft_labels, unlabelled
from lr_ray.sampling.rows import REJECTED, STEP, SUPERVISION

_ROWS_AT_ONCE = 16  # bounds the float64 temporaries


@dataclass
class Facts:
    """Counts of a shard, and the largest probability outside the exchanged tokens of a step."""

    trajectories: int = 0
    rejected: int = 0
    steps_scored: int = 0
    steps_kept: int = 0
    steps_completed: int = 0  # whose plausible set reached beyond top_k
    largest_expert_residual: float = 0.0
    largest_amateur_residual: float = 0.0

    def __add__(self, other: "Facts") -> "Facts":
        join = {name: max if name.startswith("largest") else int.__add__ for name in asdict(self)}
        theirs = asdict(other)
        return Facts(
            **{name: join[name](mine, theirs[name]) for name, mine in asdict(self).items()}
        )


@dataclass
class Labelled:
    good: pa.Table  # columns of rows.SUPERVISION
    bad: pa.Table  # columns of rows.REJECTED
    good_index: list[int]  # which problems of the run they are
    bad_index: list[int]
    facts: Facts


def label(batch: pa.Table, sampling: Sampling, k: int) -> Labelled:
    """Columns of `rows.TRAJECTORY` and `amateur_logprobs` to supervision and rejected rows.

    `k` tokens were exchanged of each step, more where its plausible set reached beyond them.
    """
    parts = [
        _label(batch.slice(start, _ROWS_AT_ONCE).combine_chunks(), sampling, k)
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE)
    ]
    return Labelled(
        pa.concat_tables([p.good for p in parts]),
        pa.concat_tables([p.bad for p in parts]),
        [i for p in parts for i in p.good_index],
        [i for p in parts for i in p.bad_index],
        sum((p.facts for p in parts), Facts()),
    )


def _label(batch: pa.Table, sampling: Sampling, k: int) -> Labelled:
    bad = _rejected(batch, batch["error"].is_valid(), batch["error"])
    bad_index = batch.filter(batch["error"].is_valid())["index"].to_pylist()
    batch = batch.filter(batch["error"].is_null()).combine_chunks()
    lengths = pc.list_value_length(batch["completion_token_ids"]).to_numpy()
    row_N = np.repeat(np.arange(batch.num_rows), lengths)
    exchanged = ("topk_token_ids", "expert_logprobs", "amateur_logprobs", "counts")
    x = Exchange(*(_flat(batch[name]) for name in exchanged))
    divergence = diverge(x)
    keep_N = divergence.kl > sampling.kl_threshold

    # A step that cannot be judged or labelled spoils its trajectory, which would be trained on as if
    # it were whole.
    nan_N = np.isnan(divergence.kl)
    unknown_N = keep_N & unlabelled(x, sampling.plausibility)
    spoilt_N = nan_N | unknown_N
    every = np.arange(batch.num_rows)
    nan, spoilt = np.isin(every, row_N[nan_N]), np.isin(every, row_N[spoilt_N])
    reasons = np.where(
        nan, "an engine gave NaN", "a step's plausible tokens are all unknown to the amateur"
    )
    bad = pa.concat_tables([bad, _rejected(batch, pa.array(spoilt), pa.array(reasons))])
    index = batch["index"].to_numpy()

    labels = soft_labels(x, keep_N & ~spoilt_N, sampling.plausibility)
    good = _supervision(batch, lengths, divergence.kl, labels).filter(pa.array(~spoilt))
    whole_N = ~spoilt[row_N]
    return Labelled(
        good,
        bad,
        index[~spoilt].tolist(),
        bad_index + index[spoilt].tolist(),
        Facts(
            trajectories=good.num_rows,
            rejected=bad.num_rows,
            steps_scored=int(whole_N.sum()),
            steps_kept=int((keep_N & whole_N).sum()),
            steps_completed=int((x.counts > k).sum()),
            largest_expert_residual=float(divergence.expert_residual[whole_N].max(initial=0)),
            largest_amateur_residual=float(divergence.amateur_residual[whole_N].max(initial=0)),
        ),
    )


def _supervision(batch: pa.Table, lengths: np.ndarray, kl_N: np.ndarray, labels: Any) -> pa.Table:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    row_L = np.searchsorted(starts, labels.steps, side="right") - 1
    offsets = pa.array(labels.offsets.astype(np.int32))
    steps = pa.StructArray.from_arrays(
        [
            pa.array((labels.steps - starts[row_L]).astype(np.int32)),
            pa.ListArray.from_arrays(offsets, pa.array(labels.token_ids)),
            pa.ListArray.from_arrays(offsets, pa.array(labels.weights)),
        ],
        fields=list(STEP),
    )
    step_starts = np.searchsorted(labels.steps, starts).astype(np.int32)
    return pa.table(
        [
            *(batch[name] for name in SUPERVISION.names[:4]),
            pa.ListArray.from_arrays(pa.array(starts), pa.array(kl_N)),
            pa.ListArray.from_arrays(pa.array(step_starts), steps),
        ],
        schema=SUPERVISION,
    )


def _rejected(batch: pa.Table, which: Any, reasons: Any) -> pa.Table:
    columns = [*(batch[name] for name in ("problem_id", "file", "row")), reasons]
    return pa.table(columns, schema=REJECTED).filter(which)


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
