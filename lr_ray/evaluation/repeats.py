"""Rows of an evaluation file that ask the same: each problem is asked, and counted, once.

pytest tests/unit/test_evaluation_tasks.py
"""

from lr_ray.problems.rows import Problem, Rejected


class Once:
    """Knows the problems that were given to it."""

    def __init__(self) -> None:
        self._asked: dict[str, Problem] = {}
        self._named: dict[str, Problem] = {}

    def of(self, item: Problem | Rejected) -> Problem | Rejected | None:
        """The item; None for one that repeats an earlier problem and its answer.

        One that contradicts an earlier row, by its answer or under its id, is rejected.
        """
        if isinstance(item, Rejected):
            return item
        same = self._asked.setdefault(item.problem.strip(), item)
        other = self._named.setdefault(item.problem_id, item)
        if same is item and other is item:
            return item
        if same is item:
            reason = f"has the id {item.problem_id!r} of {_place(other, item)}; ids must differ"
        elif (same.answer or "").strip() == (item.answer or "").strip():
            return None
        else:
            reason = (
                f"asks the same as {_place(same, item)}, whose answer is {same.answer!r} and not "
                f"{item.answer!r}; keep the right one"
            )
        return Rejected(item.problem_id, item.file, item.row, reason)


def _place(there: Problem, item: Problem) -> str:
    return f"row {there.row}" + (f" of {there.file}" if there.file != item.file else "")
