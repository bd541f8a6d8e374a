r"""Two defects of the published code as plugins, so that their consequence can be measured.

    lr-ray compare --config demo --run runs/errata --grid benchmarks/errata.yaml \
      --plugins benchmarks.published

docs/errata.md says why each matters.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_ray.method.rules import Steps
from lr_ray.plugins import backends, selections
from lr_ray.training.batches import MicroBatch
from lr_ray.training.engine import Engine

Array = NDArray[Any]


@selections.register("kl_but_first")
def kl_but_first(steps: Steps) -> Array:
    """Above the threshold, but never the first generated token, which the published code does not score."""
    return (steps.kl > steps.threshold) & (steps.position > 0)


@backends.register("last_column")
class LastColumn(Engine):
    """Kept steps are trained as rows of their own, eight in a forward; the last column has the loss.

    A row that is shorter than the longest one ends in padding there: it is trained to predict its label after
    a padding token at the longest one's last position, which attends to the row's own tokens (and, unlike the
    published code's, to itself).
    """

    def step(
        self, number: int, micro_batches: Sequence[MicroBatch], kept_steps: int
    ) -> dict[str, float]:
        pad = int(self.loss.model.config.pad_token_id)
        rows = [row for micro_batch in micro_batches for row in _prefixes(micro_batch)]
        forwards = [_padded(rows[i : i + 8], pad) for i in range(0, len(rows), 8)]
        return super().step(number, forwards, kept_steps)


def _prefixes(micro_batch: MicroBatch) -> list[tuple[int, Array, Array, Array]]:
    """Of each kept step its trajectory, the tokens before it, and its label's ids and weights."""
    ends_B = micro_batch.length_B.cumsum()
    found = []
    for step, token in enumerate(micro_batch.step_token_S):
        row = int(ends_B.searchsorted(token, side="right"))
        tokens = micro_batch.token_ids_N[ends_B[row] - micro_batch.length_B[row] : token + 1]
        label = micro_batch.label_step_L == step
        ids, weights = micro_batch.label_id_L[label], micro_batch.label_weight_L[label]
        found.append((int(micro_batch.index_B[row]), tokens, ids, weights))
    return found


def _padded(rows: Sequence[tuple[int, Array, Array, Array]], pad: int) -> MicroBatch:
    longest = max(len(tokens) for _, tokens, _, _ in rows)
    tokens, positions = [], []
    for _, prefix, _, _ in rows:
        short = len(prefix) < longest
        tokens.append(np.append(prefix, pad) if short else prefix)
        positions.append(np.arange(len(tokens[-1])))
        positions[-1][-1] = longest - 1
    lengths = np.array([len(row) for row in tokens])
    return MicroBatch(
        token_ids_N=np.concatenate(tokens),
        position_N=np.concatenate(positions),
        index_B=np.array([index for index, *_ in rows]),
        length_B=lengths,
        step_token_S=lengths.cumsum() - 1,
        label_step_L=np.repeat(np.arange(len(rows)), [len(ids) for _, _, ids, _ in rows]),
        label_id_L=np.concatenate([ids for _, _, ids, _ in rows]),
        label_weight_L=np.concatenate([weights for *_, weights in rows]),
    )
