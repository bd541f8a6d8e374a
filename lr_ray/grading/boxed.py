r"""The answer in a \boxed{}, of reference solutions and of completions.

pytest tests/unit/grading/test_reading.py
"""

import re

# `\\boxed` too: a model that has read JSON escapes its backslashes.
_MARK = re.compile(r"\\{1,4}(?:boxed|fbox)(?:\s*(?P<brace>\{)|\s+)|\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"[^\s$]*")


def last_boxed(text: str) -> str | None:
    r"""Content of the last closed \boxed{} (or \fbox{}); without braces, up to the next space or $.

    Nested braces belong to it; escaped ones do not count. One pass, however many boxes stay open.
    """
    last: tuple[int, str] | None = None
    opened: list[
        tuple[bool, int]
    ] = []  # of each open brace: is it a box's, where its content starts
    for mark in _MARK.finditer(text):
        if mark[0] == "{" or mark["brace"]:
            opened.append((bool(mark["brace"]), mark.end()))
        elif mark[0] == "}":
            is_box, start = opened.pop() if opened else (False, 0)
            if is_box and (last is None or start > last[0]):
                last = start, text[start : mark.start()].strip()
        elif len(mark[0]) > 2:  # a box without braces
            last = mark.end(), _BARE.match(text, mark.end())[0]  # type: ignore[index]
    return None if last is None else last[1]
