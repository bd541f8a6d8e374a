"""Drops repeated rows, and shuffles, on a temporary database that spills to disk.

pytest tests/unit/test_problems_staging.py tests/unit/test_evaluation_tasks.py
"""

import sqlite3
from collections.abc import Iterable, Iterator

from lr_ray.problems.rows import Problem, Rejected, place_in_order

Item = Problem | Rejected
_SLACK = 1024  # problems kept beyond those asked for, before the rest is deleted


def distinct(items: Iterable[Item]) -> Iterator[Item]:
    """The same items in the same order; the second and later problem of an id is rejected."""
    database = _database("seen (key BLOB PRIMARY KEY, file TEXT, row INTEGER) WITHOUT ROWID")
    for item in items:
        if isinstance(item, Rejected):
            yield item
            continue
        place = (place_in_order(item.problem_id, 0), item.file, item.row)
        added = database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", place).rowcount
        yield item if added else _repeat(item, database, "seen", place[0])


def shuffled(items: Iterable[Item], seed: int, count: int) -> Iterator[Item]:
    """At least the first `count` distinct problems in the order of a hash of seed and id.

    The order does not depend on that of `items`, and a smaller `count` yields a beginning of what a
    larger one yields. Rejected rows have places in it too, by file and row. Keeps at most twice
    `count` problems, on disk.
    """
    database = _database(
        "kept (key BLOB PRIMARY KEY, good INTEGER, problem_id TEXT, file TEXT, row INTEGER,"
        " problem TEXT, rest TEXT, metadata TEXT) WITHOUT ROWID"
    )
    good, bound = 0, b"\xff" * 17
    for item in items:
        if isinstance(item, Problem):
            key = place_in_order(item.problem_id, seed)
            if key >= bound:
                continue
            values = (key, 1, item.problem_id, item.file, item.row, item.problem, item.answer)
            if database.execute(_KEEP, (*values, item.metadata)).rowcount:
                good += 1
            else:
                item = _repeat(item, database, "kept", key)
        if isinstance(item, Rejected):
            key = place_in_order(f"{item.file}\0{item.row}", seed)
            if key < bound:
                place = (item.problem_id, item.file, item.row)
                database.execute(_KEEP, (key, 0, *place, None, item.reason, None))
        if good > 2 * count + _SLACK:
            (bound,) = database.execute(_BOUND, (count,)).fetchone()
            database.execute("DELETE FROM kept WHERE key >= ?", (bound,))
            good = count
    for _, is_good, problem_id, file, row, problem, rest, more in database.execute(_ALL):
        if is_good:
            yield Problem(problem_id, problem, rest, file, row, more)
        else:
            yield Rejected(problem_id, file, row, rest)


_KEEP = "INSERT OR IGNORE INTO kept VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_BOUND = "SELECT key FROM kept WHERE good ORDER BY key LIMIT 1 OFFSET ?"
_ALL = "SELECT * FROM kept ORDER BY key"


def _database(table: str) -> sqlite3.Connection:
    # Without a name, SQLite keeps its 64 MiB of pages in memory and the rest in a temporary file.
    database = sqlite3.connect("", isolation_level=None)
    for statement in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -65536"):
        database.execute(f"PRAGMA {statement}")
    database.execute("BEGIN")  # never ended: a commit a row would look at every page a row
    database.execute(f"CREATE TABLE {table}")
    return database


def _repeat(item: Problem, database: sqlite3.Connection, table: str, key: bytes) -> Rejected:
    found = database.execute(f"SELECT file, row FROM {table} WHERE key = ?", (key,))
    file, row = found.fetchone()
    reason = f"duplicate of {_place(file, row, item)}: the same id or text; must occur once"
    return Rejected(item.problem_id, item.file, item.row, reason)


def once(item: Item, asked: dict[tuple[str, str], Problem]) -> Item | None:
    """The item; None for one that repeats a problem of `asked`, which it joins, and its answer.

    One that contradicts an earlier row, by its answer or under its id, is rejected.
    """
    if isinstance(item, Rejected):
        return item
    same = asked.setdefault(("problem", item.problem.strip()), item)
    other = asked.setdefault(("id", item.problem_id), item)
    if same is item and other is item:
        return item
    if same is item:
        place = _place(other.file, other.row, item)
        reason = f"has the id {item.problem_id!r} of {place}; ids must differ"
    elif (same.answer or "").strip() == (item.answer or "").strip():
        return None
    else:
        reason = (
            f"asks the same as {_place(same.file, same.row, item)}, whose answer is {same.answer!r} and "
            f"not {item.answer!r}; keep the right one"
        )
    return Rejected(item.problem_id, item.file, item.row, reason)


def _place(file: str, row: int, item: Problem) -> str:
    """Where another row stands, told of the item."""
    return f"row {row}" + (f" of {file}" if file != item.file else "")
