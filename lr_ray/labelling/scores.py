"""Trajectories with both models' log-probabilities to what labelling needs of them: `schemas.SCORES`.

Exercised by `pytest tests/unit/test_label.py`.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lr_ray.method.contrast import Exchange, diverge, plausible
from lr_ray.run.schemas import PLAUSIBLE, SCORES, flat, rejected

# float64 temporaries of 2 MB: beyond a core's cache they cost twice as much.
_VALUES_AT_ONCE = 1 << 18


@dataclass
class Scored:
    scores: pa.Table  # columns of schemas.SCORES
    bad: pa.Table  # columns of schemas.REJECTED: an actor's error, or NaN
    bad_index: list[int]  # which problems of the run they are


def score(batch: pa.Table, plausibility: float, k: int) -> Scored:
    """Columns of `schemas.TRAJECTORY` and `amateur_logprobs` to step KL and plausible sets.

    `k` tokens were exchanged of each step, more where its plausible set reached beyond them.
    """
    values = pc.sum(pc.list_value_length(batch["counts"])).as_py() * k
    rows = max(1, _VALUES_AT_ONCE * batch.num_rows // max(1, values))
    parts = [
        _score(batch.slice(start, rows).combine_chunks(), plausibility, k)
        for start in range(0, batch.num_rows, rows)
    ]
    return Scored(
        pa.concat_tables([p.scores for p in parts]),
        pa.concat_tables([p.bad for p in parts]),
        [i for p in parts for i in p.bad_index],
    )


def _score(batch: pa.Table, plausibility: float, k: int) -> Scored:
    failed = batch["error"].is_valid()
    bad, bad_index = rejected(batch, failed, batch["error"]), batch["index"].filter(failed)
    if len(bad_index):  # a filter copies everything
        batch = batch.filter(batch["error"].is_null()).combine_chunks()
    lengths = pc.list_value_length(batch["completion_token_ids"]).to_numpy()
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    exchanged = ("topk_token_ids", "expert_logprobs", "amateur_logprobs", "counts")
    x = Exchange(*(flat(batch[name]) for name in exchanged))
    divergence = diverge(x)

    def of_row(reduce: np.ufunc, values_N: np.ndarray) -> np.ndarray:
        return reduce.reduceat(values_N, starts) if len(starts) else values_N[:0]

    nan = of_row(np.logical_or, np.isnan(divergence.kl))
    reasons = pa.array(["an engine gave NaN"] * len(nan), pa.string())
    spoilt = batch.filter(pa.array(nan, pa.bool_()))["index"]
    scores = pa.table(
        [
            *(batch[name] for name in SCORES.names[:7]),
            _by_step(lengths, pa.array(divergence.kl)),
            _by_step(lengths, _plausible(x, plausibility)),
            pa.array(of_row(np.add, (x.counts > k).astype(np.int32))),
            pa.array(of_row(np.maximum, divergence.expert_residual)),
            pa.array(of_row(np.maximum, divergence.amateur_residual)),
        ],
        schema=SCORES,
    )
    return Scored(
        scores.filter(pa.array(~nan, pa.bool_())),
        pa.concat_tables([bad, rejected(batch, pa.array(nan, pa.bool_()), reasons)]),
        bad_index.to_pylist() + spoilt.to_pylist(),
    )


def _plausible(x: Exchange, plausibility: float) -> pa.StructArray:
    member = np.flatnonzero(plausible(x, plausibility))
    ends = np.searchsorted(member, x.starts + x.counts)
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    columns = (x.token_ids, x.expert, x.amateur)
    return pa.StructArray.from_arrays(
        [pa.ListArray.from_arrays(offsets, pa.array(values[member])) for values in columns],
        fields=list(PLAUSIBLE),
    )


def _by_step(lengths: np.ndarray, values: pa.Array) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
