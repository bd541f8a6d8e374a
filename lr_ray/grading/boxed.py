r"""The answer in a \boxed{}, of reference solutions and of completions.

pytest tests/unit/grading/test_reading.py
"""

import re
from typing import NamedTuple

# `\\boxed` too: a model that has read JSON escapes its backslashes.
_MARK = re.compile(r"\\{1,4}(?:boxed|fbox)(?:\s*(?P<brace>\{)|\s+|(?=[\d\\]))|\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"[^\s$]{0,200}")


class Box(NamedTuple):
    """`start` and `end` are those of the mark with all of its braces, `inside` where the content starts."""

    start: int
    inside: int
    end: int
    content: str
    braced: bool = True


def boxes(text: str) -> list[Box]:
    r"""Every closed \boxed{} (or \fbox{}), by where it opens; without braces, up to a space or $.

    Nested braces belong to a box; escaped ones do not count. One pass, however many boxes stay open.
    """
    if "boxed" not in text and "fbox" not in text:
        return []
    found: list[Box] = []
    # Of each open brace: where its box starts, or -1, and where its content does.
    opened: list[tuple[int, int]] = []
    for mark in _MARK.finditer(text):
        if mark[0] == "{" or mark["brace"]:
            opened.append((mark.start() if mark["brace"] else -1, mark.end()))
        elif mark[0] == "}":
            start, inside = opened.pop() if opened else (-1, 0)
            if start >= 0:
                found.append(Box(start, inside, mark.end(), text[inside : mark.start()].strip()))
        elif len(mark[0]) > 2:  # a box without braces
            content = _BARE.match(text, mark.end())
            assert content is not None
            found.append(Box(mark.start(), mark.end(), content.end(), content[0], braced=False))
    return sorted(found)


def last_boxed(text: str) -> str | None:
    """Content of the closed box that opens last, or None."""
    found = boxes(text)
    return found[-1].content if found else None
