"""Trajectories with both models' log-probabilities to supervision rows, in one pass over arrays."""

import numpy as np
import pyarrow as pa

from lr_ray.config import Sampling
from lr_ray.contrast import overflows, soft_labels, step_kl, unlabelled
from lr_ray.sampling.rows import STEP, SUPERVISION


def label(batch: pa.Table, sampling: Sampling, vocabulary: int) -> pa.Table:
    """Columns of `rows.TRAJECTORY` and `amateur_logprobs` to those of `rows.SUPERVISION` and `error`.

    `vocabulary` is the number of the expert's output rows: K below it is a truncation, and a
    trajectory whose plausible set may reach beyond K, or is unknown to the amateur, becomes an error
    rather than a wrong label.
    """
    batch = batch.combine_chunks()
    lengths = np.diff(_offsets(batch["completion_token_ids"]))
    k = max([n for n in batch["k"].to_pylist() if n], default=1)
    ids_NK = _values(batch["topk_token_ids"]).reshape(-1, k)
    expert_NK = _values(batch["expert_logprobs"]).reshape(-1, k)
    amateur_NK = _values(batch["amateur_logprobs"]).reshape(-1, k)
    row_N = np.repeat(np.arange(len(lengths)), lengths)

    kl_N = step_kl(expert_NK, amateur_NK)
    keep_N = kl_N > sampling.kl_threshold
    cut_N = keep_N & overflows(expert_NK, sampling.plausibility) & (k < vocabulary)
    unlabelled_N = keep_N & unlabelled(expert_NK, amateur_NK, sampling.plausibility)
    keep_N &= ~(cut_N | unlabelled_N)  # their trajectories become errors below
    labels = soft_labels(ids_NK, expert_NK, amateur_NK, keep_N, sampling.plausibility)

    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    positions = labels.steps - starts[row_N[labels.steps]]
    offsets = pa.array(labels.offsets.astype(np.int32))
    steps = pa.StructArray.from_arrays(
        [
            pa.array(positions.astype(np.int32)),
            pa.ListArray.from_arrays(offsets, pa.array(labels.token_ids)),
            pa.ListArray.from_arrays(offsets, pa.array(labels.weights)),
        ],
        fields=list(STEP),
    )
    step_starts = np.searchsorted(labels.steps, starts).astype(np.int32)
    errors = batch["error"].to_pylist()
    for row in np.unique(row_N[cut_N]):
        errors[row] = f"plausible set of a step reaches beyond top_k = {k}; raise sampling.top_k"
    for row in np.unique(row_N[unlabelled_N]):
        errors[row] = "a step's plausible tokens are all unknown to the amateur"
    return pa.table(
        [
            batch["problem_id"],
            batch["prompt_token_ids"],
            batch["completion_token_ids"],
            batch["finish_reason"],
            pa.ListArray.from_arrays(pa.array(starts), pa.array(kl_N)),
            pa.ListArray.from_arrays(pa.array(step_starts), steps),
            pa.array(errors, pa.string()),
        ],
        schema=SUPERVISION.append(pa.field("error", pa.string())),
    )


def _offsets(column: pa.ChunkedArray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(x.values) for x in column])])


def _values(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
