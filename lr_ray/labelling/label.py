"""Scored trajectories to supervision rows, and what a shard says of them."""

from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lr_ray.config import Sampling
from lr_ray.labelling.scores import score
from lr_ray.method.contrast import (
    Exchange,
    Labels,
    expert_labels,
    greedy_labels,
    random_steps,
    soft_labels,
    unlabelled,
)
from lr_ray.run.schemas import STEP, SUPERVISION, flat, rejected

NO_LABEL = "a step's plausible tokens are all unknown to the amateur"


@dataclass
class Facts:
    """Counts of a shard, and the largest probability outside the exchanged tokens of a step."""

    problems: int = 0  # that are done, whatever came of them
    trajectories: int = 0
    rejected: int = 0
    steps_scored: int = 0
    steps_kept: int = 0
    steps_completed: int = 0  # whose plausible set reached beyond top_k
    samples_drawn: int = 0  # by method rejection
    samples_right: int = 0
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
    good_index: list[int]  # which problems of the run are done; one may have no row, or many
    bad_index: list[int]  # which are rejected, a row each
    facts: Facts


def label(batch: pa.Table, sampling: Sampling, k: int) -> Labelled:
    """`scores.score` and `supervise` in turn: trajectories to supervision and rejected rows."""
    scored = score(batch, sampling.plausibility, k)
    return supervise(scored.scores, sampling, scored.bad, scored.bad_index)


def supervise(
    scores: pa.Table, sampling: Sampling, bad: pa.Table, bad_index: list[int]
) -> Labelled:
    """Columns of `rows.SCORES` to supervision rows by the sampling's selection and labels.

    `bad` (columns of `rows.REJECTED`) are problems without scores. A trajectory with a kept step that
    has no label joins them: it would be trained on as if it were whole.
    """
    scores = scores.combine_chunks()
    lengths = pc.list_value_length(scores["completion_token_ids"]).to_numpy()
    row_N = np.repeat(np.arange(scores.num_rows), lengths)
    x = _exchange(scores)
    keep_N = _select(scores, lengths, sampling)
    spoilt = np.zeros(scores.num_rows, bool)
    if sampling.labels == "contrast":
        spoilt[row_N[keep_N & unlabelled(x, sampling.plausibility)]] = True
    whole_N = ~spoilt[row_N]
    if sampling.labels == "contrast":
        labels = soft_labels(x, keep_N & whole_N, sampling.plausibility)
    elif sampling.labels == "expert":
        labels = expert_labels(x, keep_N, sampling.plausibility)
    else:
        labels = greedy_labels(flat(scores["completion_token_ids"]), keep_N)

    reasons = pa.array([NO_LABEL] * scores.num_rows, pa.string())
    bad = pa.concat_tables([bad, rejected(scores, pa.array(spoilt), reasons)])
    good = scores.filter(pa.array(~spoilt))
    index = scores["index"].to_numpy()
    return Labelled(
        _supervision(scores, lengths, labels).filter(pa.array(~spoilt)),
        bad,
        index[~spoilt].tolist(),
        bad_index + index[spoilt].tolist(),
        Facts(
            problems=good.num_rows + bad.num_rows,
            trajectories=good.num_rows,
            rejected=bad.num_rows,
            steps_scored=int(whole_N.sum()),
            steps_kept=int((keep_N & whole_N).sum()),
            steps_completed=pc.sum(good["steps_completed"]).as_py() or 0,
            largest_expert_residual=pc.max(good["expert_residual"]).as_py() or 0.0,
            largest_amateur_residual=pc.max(good["amateur_residual"]).as_py() or 0.0,
        ),
    )


def _exchange(scores: pa.Table) -> Exchange:
    """The plausible sets as an exchange of those tokens alone."""
    steps = scores["plausible"].combine_chunks().flatten()
    names = ("token_ids", "expert_logprobs", "amateur_logprobs")
    token_ids, expert, amateur = (
        steps.field(name).flatten().to_numpy(zero_copy_only=False) for name in names
    )
    counts = pc.list_value_length(steps.field("token_ids")).to_numpy(zero_copy_only=False)
    return Exchange(token_ids, expert, amateur, counts)


def _select(scores: pa.Table, lengths: NDArray, sampling: Sampling) -> NDArray[np.bool_]:
    keep_N = flat(scores["kl"]) > sampling.kl_threshold
    if sampling.selection in ("random", "random_within"):
        ids = scores["problem_id"].to_pylist()
        within = sampling.selection == "random_within"
        return random_steps(keep_N, lengths.tolist(), ids, sampling.seed, within)
    return keep_N if sampling.selection == "kl" else np.ones_like(keep_N)


def _supervision(scores: pa.Table, lengths: NDArray, labels: Labels) -> pa.Table:
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
            *(scores[name] for name in SUPERVISION.names[:5]),
            pa.ListArray.from_arrays(pa.array(step_starts), steps),
        ],
        schema=SUPERVISION,
    )
