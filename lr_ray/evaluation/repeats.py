"""Rows of an evaluation file that ask the same: each problem is asked, and counted, once.

pytest tests/unit/test_evaluation_tasks.py
"""

from collections.abc import Iterable, Iterator

from lr_ray.problems.rows import Problem, Rejected


def once(items: Iterable[Problem | Rejected]) -> Iterator[Problem | Rejected | None]:
    """The items, None in the place of one that repeats an earlier problem and its answer.

    One that contradicts an earlier row, by its answer or under its id, is rejected.
    """
    asked: dict[str, Problem] = {}
    named: dict[str, Problem] = {}
    for item in items:
        if isinstance(item, Rejected):
            yield item
            continue
        same = asked.setdefault(item.problem.strip(), item)
        other = named.setdefault(item.problem_id, item)
        if same is item and other is item:
            yield item
        elif same is item:
            reason = f"has the id {item.problem_id!r} of {_place(other, item)}; ids must differ"
            yield Rejected(item.problem_id, item.file, item.row, reason)
        elif (same.answer or "").strip() != (item.answer or "").strip():
            reason = (
                f"asks the same as {_place(same, item)}, whose answer is {same.answer!r} and not "
                f"{item.answer!r}; keep the right one"
            )
            yield Rejected(item.problem_id, item.file, item.row, reason)
        else:
            yield None


def _place(there: Problem, item: Problem) -> str:
    return f"row {there.row}" + (f" of {there.file}" if there.file != item.file else "")
