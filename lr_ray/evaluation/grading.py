"""Reads the answer off a completion and compares it with the expected one.

pytest tests/unit/test_grading.py
"""

import re
import threading

_TIMEOUT_S = 5
_INTEGER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)")
# The full stop marks a finished number: a completion cut inside one has no answer.
_DEMO_ANSWER = re.compile(r"The answer is (-?\d+)\.(?!\d)")
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?")


def extract_answer(completion: str, benchmark: str) -> str | None:
    r"""The answer a completion gives, or None.

    `demo`: the last "The answer is N."; else the content of the last closed \boxed{}, or the last
    number when there is none.
    """
    if benchmark == "demo":
        answers = _DEMO_ANSWER.findall(completion)
        return answers[-1] if answers else None
    boxed = _last_boxed(completion)
    if boxed is not None:
        return boxed
    numbers = _NUMBER.findall(completion)
    return numbers[-1] if numbers else None


def is_correct(expected: str, extracted: str | None) -> bool:
    """Whether the two are the same mathematical object; integers are compared as such."""
    if extracted is None:
        return False
    expected, extracted = expected.strip(), extracted.strip()
    if expected == extracted:
        return True
    if _INTEGER.fullmatch(expected) and _INTEGER.fullmatch(extracted):
        return int(expected.replace(",", "")) == int(extracted.replace(",", ""))
    return _equivalent(expected, extracted)


def _equivalent(expected: str, extracted: str) -> bool:
    from math_verify import parse, verify

    # math-verify limits its time by SIGALRM, which only the main thread may set.
    seconds = _TIMEOUT_S if threading.current_thread() is threading.main_thread() else None
    gold, answer = (
        parse(f"${text.strip('$')}$", parsing_timeout=seconds) for text in (expected, extracted)
    )
    return bool(verify(gold, answer, timeout_seconds=seconds))


def _last_boxed(text: str) -> str | None:
    r"""Content of the last \boxed{...} whose braces close; nested braces belong to it."""
    start = text.rfind(r"\boxed{")
    while start >= 0:
        first = start + len(r"\boxed{")
        depth = 1
        for end in range(first, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                return text[first:end].strip()
        start = text.rfind(r"\boxed{", 0, start)
    return None
