r"""Reads the answer off a completion.

The order of the rules is that of `extract_answer` in the Qwen2.5-Math evaluation toolkit
(evaluation/parser.py). It differs where that rule loses the answer:

- an unclosed \boxed{ has no answer (theirs takes what is there); an earlier closed box counts, and
  without one no number after the unclosed box does;
- "the answer is" ends with its sentence (theirs takes all that follows);
- the last number keeps its fraction: 3/4 (theirs: 4), and does not run into list commas;
- a choice is a capital letter, or one in a box, brackets or after "answer is": the article "a" and
  the variables b, c, d are none; a box goes before "answer is"; a blank line does not end the
  completion (theirs, made for few-shot prompts, drops what follows the first);
- a completion that the limit cut answers by a closed box or a whole statement alone: the last number
  of unfinished work is right by luck only;
- what is read is returned as written: `grading` alone rewrites it.

pytest tests/unit/grading/test_reading.py
"""

import re

from lr_ray.grading.boxed import last_boxed

# The full stop marks a finished number: a completion cut inside one has no answer.
_DEMO_ANSWER = re.compile(r"The answer is (-?\d+)\.(?!\d)")
# As few-shot prompts of Minerva end; the first, for a base model goes on inventing problems.
_MINERVA = re.compile(r"final answer is \$(.*?)\$\. I hope", re.DOTALL)
_STATED = re.compile(r"(?:[Tt]he answer is|final answer is|答案是)")
_OPEN_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_NUMBER = re.compile(
    r"(?:(?<![\w.)\]}])-)?(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d+)?(?:(?<=\d)\.\d+|(?<!\d)\.\d+)?"
    r"(?:(?<=\d)/\d+(?:\.\d+)?)?"
)
_FILLER = r"(?:therefore|thus|hence|then|so|simply|just|equal to|exactly|approximately|about)"
_MATH = re.compile(
    rf"[\s:,*]*(?:{_FILLER}[\s:,]+)*"
    r"(?:\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\])",
    re.DOTALL,
)
# A full stop ends the sentence where a space or the end follows, but not after "Mrs" or in "p.m.".
_SENTENCE_END = re.compile(
    r"\n|。|(?<!\.[A-Za-z])(?<!\bM[rs])(?<!\bMrs)(?<!\bDr)(?<!\bSt)\.(?=\s|$)|\.(?=\s+[A-Z])(?<=\.m\.)"
)
_LAST_WORD = re.compile(r"\S+\Z")
_CHOICE_STATED = re.compile(r"(?:answer|choice|option) is|答案是|answer:", re.IGNORECASE)
_CHOICE_MARKED = re.compile(r"\(([A-Ea-e])\)|(?<![\w\\])([A-E])(?:[).:]|\*\*)")
_CHOICE_BARE = re.compile(r"(?<![\w\\'\u2019])(?:A(?! (?!is\b)[a-z])|[BCD])(?![\w'\u2019])")


def kind_of(benchmark: str) -> str:
    """How answers of a benchmark or problem source are read and graded: demo, choice or math."""
    return {"demo": "demo", "mmlu_stem": "choice"}.get(benchmark, "math")


def extract_answer(completion: str, kind: str, cut: bool = False) -> str | None:
    r"""The answer that a completion gives, as it is written there, or None when it gives none.

    `demo`: N of the last "The answer is N.". `choice`: a letter A to E, from the last \boxed{}, else
    after the last "answer is" or "choice is", else the last letter that stands alone. `math`: the
    first "final answer is $...$. I hope"; else the last closed \boxed{}; else what follows the last
    "the answer is", "final answer is" or "答案是"; else the last number. `cut`: the limit on tokens
    ended the completion; its last word may be half of one, and the last rules of choice and math do
    not apply. Raises ValueError for another kind.
    """
    if kind == "demo":
        answers = _DEMO_ANSWER.findall(completion)
        return answers[-1] if answers else None
    if kind == "choice":
        return _choice(completion, cut)
    if kind == "math":
        return _math(completion, cut) or None
    raise ValueError(f"kind: {kind!r}; must be demo, choice or math")


def choice_letter(text: str) -> str | None:
    """The letter of an answer that names a choice, such as B, (b), B. or \\text{(B) } 12."""
    bare = re.sub(r"\\[A-Za-z]+|[{}$*]", " ", text).strip()
    found = re.match(r"\(?([A-Ea-e])\)?(?![\w'\u2019])(?:[).:]|\s|$)", bare)
    return found[1].upper() if found else None


def _math(completion: str, cut: bool) -> str | None:
    minerva = _MINERVA.search(completion)
    if minerva:
        return minerva[1].strip()
    boxed = last_boxed(completion)
    if boxed is not None:
        return boxed
    # No box is closed, so the first one that opens was cut, and all that follows with it.
    whole = _OPEN_BOX.split(completion, maxsplit=1)[0]
    if cut:
        whole = _LAST_WORD.sub("", whole)
    stated = list(_STATED.finditer(whole))
    if stated:
        answer = _statement(whole[stated[-1].end() :])
        if answer:
            return answer
    if cut:
        return None
    numbers = [found[0] for found in _NUMBER.finditer(whole) if found[0].strip("-")]
    return numbers[-1] if numbers else None


def _statement(rest: str) -> str:
    """What a sentence states after its "is": its formula when it begins with one, else its words."""
    formula = _MATH.match(rest)
    if formula:
        # A unit after the formula, as in "$5$ apples", adds nothing that grading would keep.
        return next(part for part in formula.groups() if part is not None).strip()
    rest = rest.lstrip(" :\n*")
    end = _SENTENCE_END.search(rest)
    return (rest[: end.start()] if end else rest).strip().strip("*").strip()


def _choice(completion: str, cut: bool) -> str | None:
    boxed = last_boxed(completion)
    if boxed is not None:
        letter = choice_letter(boxed)
        if letter is not None:
            return letter
    if cut:
        completion = _LAST_WORD.sub("", completion)
    stated = list(_CHOICE_STATED.finditer(completion))
    if stated:
        rest = re.sub(r"^[\s:*]+", "", completion[stated[-1].end() :])
        letter = choice_letter(rest[:40])
        if letter is not None:
            return letter
    for pattern in () if cut else (_CHOICE_MARKED, _CHOICE_BARE):
        found = list(pattern.finditer(completion))
        if found:
            return next((g for g in found[-1].groups() if g), found[-1][0]).upper()
    return None
