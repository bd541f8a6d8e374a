"""Arrow schemas of what flows between the sampling actors and of the shards that they write."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lr_ray.run.store import SCHEMA_VERSION

TRAJECTORY = pa.schema(
    [
        ("index", pa.int64()),  # of the problem in the run
        ("problem_id", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("completion_token_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("counts", pa.list_(pa.int32())),  # tokens of each step in the two lists below
        ("topk_token_ids", pa.list_(pa.int32())),
        ("expert_logprobs", pa.list_(pa.float32())),
        ("error", pa.string()),
    ]
)

SOLUTIONS = pa.schema(
    [
        ("index", pa.int64()),
        ("problem_id", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("answer", pa.string()),
        ("metadata", pa.string()),  # JSON, or null
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("completions", pa.list_(pa.list_(pa.int32()))),  # token ids of each sampled solution
        ("finish_reasons", pa.list_(pa.string())),
        ("error", pa.string()),
    ]
)

PLAUSIBLE = pa.struct(
    [
        ("token_ids", pa.list_(pa.int32())),  # most probable first
        ("expert_logprobs", pa.list_(pa.float32())),
        ("amateur_logprobs", pa.list_(pa.float32())),  # -inf: the amateur has no such token
    ]
)

# Every trajectory that both models scored. Enough for supervision by any threshold, selection and kind
# of label, and by any plausibility from the footer's on.
SCORES = pa.schema(
    [
        *(TRAJECTORY.field(i) for i in range(7)),  # index to finish_reason
        ("kl", pa.list_(pa.float32())),  # nats, every step
        ("plausible", pa.list_(PLAUSIBLE)),  # every step's plausible set
        ("steps_completed", pa.int32()),  # steps whose plausible set reached beyond top_k
        ("expert_residual", pa.float32()),  # largest probability outside the exchanged tokens
        ("amateur_residual", pa.float32()),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)

STEP = pa.struct(
    [
        ("position", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("weights", pa.list_(pa.float32())),
    ]
)

SUPERVISION = pa.schema(
    [
        ("problem_id", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("completion_token_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("kl", pa.list_(pa.float32())),
        ("steps", pa.list_(STEP)),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)

REJECTED = pa.schema(
    [
        ("problem_id", pa.string()),  # null where the row has none
        ("file", pa.string()),
        ("row", pa.int64()),  # counted from 1; a line of a JSONL file
        ("reason", pa.string()),
    ]
)


def rejected(rows: pa.Table, which: Any, reasons: Any) -> pa.Table:
    """Columns of REJECTED for those rows of a table of problems that the mask `which` has."""
    columns = [*(rows[name] for name in ("problem_id", "file", "row")), reasons]
    return pa.table(columns, schema=REJECTED).filter(which)


def first_null(table: pa.Table | pa.RecordBatch) -> tuple[int, str] | None:
    """Row and column of a null of supervision, which a finish reason alone may be; None without one."""
    rows = np.arange(table.num_rows)
    named = ((name, table[name]) for name in table.schema.names if name != "finish_reason")
    arrays = ((n, c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c) for n, c in named)
    return next((at for name, column in arrays for at in _nulls(column, rows, name)), None)


def _nulls(column: pa.Array, rows: NDArray, name: str) -> Iterator[tuple[int, str]]:
    """The first null of a column and of what is nested in it; `rows` says where each value stands."""
    if column.null_count:
        yield int(rows[column.is_null().to_numpy(zero_copy_only=False)][0]), name
    if pa.types.is_list(column.type):
        parents = pc.list_parent_indices(column).to_numpy()
        yield from _nulls(column.flatten(), rows[parents], name)
    elif pa.types.is_struct(column.type):
        for field in column.type:
            yield from _nulls(column.field(field.name), rows, f"{name}.{field.name}")


def flat(column: pa.ChunkedArray) -> NDArray:
    """All values of a list column, one after the other."""
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False)


def lists(rows: Sequence[Any], dtype: pa.DataType) -> pa.ListArray:
    """A list column from arrays or lists, without a Python object a value."""
    numpy_type = dtype.to_pandas_dtype()
    return pa.array([np.asarray(row, numpy_type) for row in rows], pa.list_(dtype))
