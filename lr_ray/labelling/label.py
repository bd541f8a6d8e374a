"""Scored trajectories to supervision rows, and what a shard says of them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lr_ray.config import Sampling
from lr_ray.errors import StageError
from lr_ray.method.contrast import Exchange, Labels, plausible
from lr_ray.method.rules import LabelRule, SelectionRule, Steps
from lr_ray.plugins import labels, selections
from lr_ray.run.schemas import STEP, SUPERVISION, flat, rejected

NO_LABEL = "a step's plausible tokens are all unknown to the amateur"
_SUM_TOLERANCE = 1e-3  # of a label's float32 weights
_MOST_ID = np.iinfo(np.int32).max  # the expert's own bound is told where its supervision is read


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
        pairs = {name: (mine, getattr(other, name)) for name, mine in vars(self).items()}
        return Facts(**{n: max(p) if n.startswith("largest") else sum(p) for n, p in pairs.items()})


@dataclass
class Labelled:
    good: pa.Table  # columns of schemas.SUPERVISION
    bad: pa.Table  # columns of schemas.REJECTED
    good_index: list[int]  # which problems of the run are done; one may have no row, or many
    bad_index: list[int]  # which are rejected, a row each
    facts: Facts


def supervise(
    scores: pa.Table, sampling: Sampling, bad: pa.Table, bad_index: list[int]
) -> Labelled:
    """Columns of `schemas.SCORES` to supervision rows by the sampling's selection and labels.

    `bad` (columns of `schemas.REJECTED`) are problems without scores. A trajectory with a kept step that
    has no label joins them: it would be trained on as if it were whole.
    """
    scores = scores.combine_chunks()
    steps = steps_of(scores, sampling)
    keep_N = _selected(steps, sampling.selection)
    given = _labelled(steps, keep_N, sampling.labels)
    bare_N = keep_N.copy()
    bare_N[given.steps] = False
    spoilt = np.zeros(scores.num_rows, bool)
    spoilt[steps.trajectory[bare_N]] = True
    whole_N = ~spoilt[steps.trajectory]
    reasons = pa.array([NO_LABEL] * scores.num_rows, pa.string())
    bad = pa.concat_tables([bad, rejected(scores, pa.array(spoilt), reasons)])
    good = scores.filter(pa.array(~spoilt))
    index = scores["index"].to_numpy()
    return Labelled(
        _supervision(scores, steps.lengths, given).filter(pa.array(~spoilt)),
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


def steps_of(scores: pa.Table, sampling: Sampling) -> Steps:
    """What the rules see of `schemas.SCORES`: an exchange of each step's plausible set alone.

    By the plausibility that is asked for, whatever smaller one the scores were kept with.
    """
    kept = scores["plausible"].combine_chunks().flatten()
    names = ("token_ids", "expert_logprobs", "amateur_logprobs")
    token_ids, expert, amateur = (
        kept.field(name).flatten().to_numpy(zero_copy_only=False) for name in names
    )
    counts = pc.list_value_length(kept.field("token_ids")).to_numpy(zero_copy_only=False)
    exchange = Exchange(token_ids, expert, amateur, counts)
    return Steps(
        kl=flat(scores["kl"]),
        exchange=exchange.only(plausible(exchange, sampling.plausibility)),
        completion=flat(scores["completion_token_ids"]),
        lengths=pc.list_value_length(scores["completion_token_ids"]).to_numpy(),
        problem_ids=scores["problem_id"].to_pylist(),
        threshold=sampling.kl_threshold,
        plausibility=sampling.plausibility,
        seed=sampling.seed,
    )


def _selected(steps: Steps, name: str) -> NDArray[np.bool_]:
    """The mask `[N]` of a selection rule. Raises StageError when it is none."""
    rule: SelectionRule = selections.get(name, "sampling.selection")
    keep_N = np.asarray(rule(steps))
    if keep_N.dtype != bool or keep_N.shape != steps.kl.shape:
        raise StageError(
            f"sampling.selection = {name}: the rule gave {keep_N.dtype} of shape {keep_N.shape}; must be "
            f"bool of shape {steps.kl.shape}"
        )
    return keep_N


def _labelled(steps: Steps, keep_N: NDArray[np.bool_], name: str) -> Labels:
    """Labels of a label rule. Raises StageError when they are none of the kept steps."""
    rule: LabelRule = labels.get(name, "sampling.labels")
    found = rule(steps, keep_N)
    if not (wrong := _no_labels(found)):
        steps_L, offsets = found.steps.astype(np.int64), found.offsets.astype(np.int64)
        found = replace(
            found, steps=steps_L, offsets=offsets, weights=found.weights.astype(np.float32)
        )
        wrong = _wrong(found, keep_N)
    if wrong:
        raise StageError(f"sampling.labels = {name}: the rule gave {wrong}")
    return replace(found, token_ids=found.token_ids.astype(np.int32))


def _no_labels(found: Any) -> str | None:
    """What is wrong with the form of what a rule gave, if anything."""
    if not isinstance(found, Labels):
        return f"{found!r:.100}; must be Labels of lr_ray.method.contrast"
    for name, array in vars(found).items():
        kind = "f" if name == "weights" else "iu"
        if getattr(array, "ndim", None) != 1 or array.dtype.kind not in kind:
            what = "floats" if name == "weights" else "integers"
            return f"{name} = {array!r:.100}; must be a NumPy array [N] of {what}"
    return None


def _wrong(found: Labels, keep_N: NDArray[np.bool_]) -> str | None:
    """What is wrong with the values of labels, if anything."""
    ids, sizes, count = found.token_ids, np.diff(found.offsets), len(found.token_ids)
    if not np.isin(found.steps, np.flatnonzero(keep_N)).all() or (np.diff(found.steps) <= 0).any():
        return "labels of steps that are not kept, or not in order"
    if len(found.offsets) != len(found.steps) + 1 or (sizes <= 0).any():
        return "a label without a token"
    if found.offsets[0] != 0 or found.offsets[-1] != count or len(found.weights) != count:
        return (
            f"{count} token ids and {len(found.weights)} weights for offsets to {found.offsets[-1]}"
        )
    if not count:
        return None
    if not 0 <= ids.min() <= ids.max() <= _MOST_ID:
        return f"token ids from {ids.min()} to {ids.max()}; must be from 0 to {_MOST_ID}"
    if len(np.unique((np.repeat(found.steps, sizes) << 32) + ids.astype(np.int64))) != count:
        return "a label with a token twice"
    if not found.weights.min() >= 0:
        return f"the weight {found.weights.min():.4g}; must be from 0"
    sums = np.add.reduceat(found.weights, found.offsets[:-1])
    return None if np.abs(sums - 1).max() < _SUM_TOLERANCE else "weights that do not sum to 1"


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
