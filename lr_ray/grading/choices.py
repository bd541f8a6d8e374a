r"""The letter that a completion chooses among the options of a question.

pytest tests/unit/grading/test_kinds.py
"""

import re

# Between the letters of several options, as in "A and C".
_ANOTHER = re.compile(r"[\s).:,;&/]*(?:(?:and|or)\s+|[,;&/]\s*)\(?[A-J]\)?(?![A-Za-z0-9_'])")
_CHOSEN = re.compile(r"\(?([A-Ja-e])\)?(?![A-Za-z0-9_'\u2019])(?:[).:,;!*]|\s|[\u3000-\u9fff]|$)")
_STATED = re.compile(
    r"\b(?:answer|choice|option)(?:\s+(?:here|to\s+this\s+question))?\**\s+"
    r"(?:is|would be|must be|should be|has to be)\b"
    r"|\b(?:answer|choice|option)\**\s*:|(?:答案|正确选项)(?:是|为|应为)?\s*:?|(?:故|应|所以|因此)?选(?:择|项)?\s*:?"
    r"|\b(?:I|we|I'll|we'll)\s+(?:would\s+|will\s+)?(?:choose|pick|select|go\s+with)\b",
    re.IGNORECASE,
)
_RIGHT = re.compile(
    r"(?<![A-Za-z0-9_\\'\u2019])\(?([A-J])\)?[.:]?\**"
    r"(?:\s+(?:is|must be|would be|has to be)\s+(?:(?:the|our|my|indeed|therefore|thus)\s+)*"
    r"(?:only\s+)?(?:final\s+|best\s+)?(?:correct|right|true(?!\s+or)|answer|best|choice)\b"
    r"|\s*(?:选项)?(?:是)?(?:正确|对的)|:\s*(?:right|correct|true|yes)\b)",
)
_FILLER = re.compile(
    r"(?:[\s:*_$]|\\\(|\\text|\{|(?:option|choice|letter|answer|therefore|thus|hence|simply|clearly|just|"
    r"most likely|likely|probably|the)\b[,:]?)+",
    re.IGNORECASE,
)
_MARKED = re.compile(r"\(([A-Ja-e])\)|(?<![A-Za-z0-9_\\])([A-E])(?:[).:]|\*\*)")
_BARE = re.compile(
    r"(?<![A-Za-z0-9_\\'\u2019])(?:A(?! (?!is\b|and\b|or\b)[a-z])|[BCD])(?![A-Za-z0-9_'\u2019])"
)
# After a letter that is dismissed, and before one.
_DISMISSED = re.compile(
    r"[).:*\s]*(?:(?:,|and|or|/)\s*\(?[A-J]\)?[\s,]*)*"
    r"(?:is|are|isn't|aren't|was|would be|can(?:not| not|'t)|does|do|must)"
    r"(?:n't)?\s+(?:also\s+|both\s+|all\s+|clearly\s+|obviously\s+|therefore\s+)*"
    r"(?:not?\b|n't|wrong|incorrect|false|impossible|invalid|too\b|ruled|eliminated|excluded|out\b|be\s+(?:ruled|right|"
    r"correct|true|eliminated|excluded))|[).*]*:\s*(?:wrong|incorrect|false|no\b|not\b|too\b)|[).:*\s]*(?:选项)?(?:是)?(?:错|不正确|不对|不是)"
)
_NOT = re.compile(
    r"(?:\bnot|n't|\bneither|\bnor|\bunlike|\bthan|\belimin\w+|\bexclud\w+|\bruled?\s+out|\breject\w*|不是|不选|排除)"
    r"(?:\s+(?:be|the|option|choice|answer|simply|just|either))*[\s:*(]*(?:\(?[A-J]\)?(?:\s*[,/]\s*|\s+(?:or|and|nor)\s+))*\(?\Z",
    re.IGNORECASE,
)
_BECAUSE = re.compile(r"\b(?:because|since|as|whereas|while|unlike)\b", re.IGNORECASE)
_NEAR = 80  # characters


def choice_letter(text: str) -> str | None:
    """The letter of an answer that names one choice, such as B, (b), B. or \\text{(B) } 12."""
    bare = re.sub(r"\\[A-Za-z]+|[{}$*]", " ", text).strip()
    found = _CHOSEN.match(bare)
    if found is None or _ANOTHER.match(bare, found.end(1)):
        return None
    return found[1].upper()


def chosen(text: str, cut: bool) -> str | None:
    """The letter that a text without boxes chooses, or None.

    What is stated or called right comes first, the last of these; else the last letter that is marked
    as a choice, else one that stands alone, and is not dismissed. `cut`: those last two do not count.
    """
    stated = [(m.end(), m.end()) for m in _STATED.finditer(text)]
    called = [(m.end(), m.start(1)) for m in _RIGHT.finditer(text)]
    for _, at in sorted(stated + called)[::-1][:20]:
        letter = _letter_at(text, at)
        if letter is not None:
            return letter
    for pattern in () if cut else (_MARKED, _BARE):
        found = list(pattern.finditer(text))[::-1][:50]
        kept = [m for m in found if not _is_dismissed(text, m)]
        if len(kept) > 1 and _ANOTHER.fullmatch(text, kept[1].end(), kept[0].end()):
            return None  # "A or B"
        if kept:
            first = [m for m in kept if not _is_reason(text, m)] or kept
            return (next((g for g in first[0].groups() if g), first[0][0])).upper()
    return None


def _letter_at(text: str, at: int) -> str | None:
    """The letter that a statement goes on with at `at`, unless it is negated."""
    filler = _FILLER.match(text, at)
    rest = text[filler.end() if filler else at :][:_NEAR]
    letter = choice_letter(rest[:40])
    if letter is None:
        return None
    negated = _NOT.search(text[max(0, at - _NEAR) : at]) or _DISMISSED.match(rest.lstrip("("), 1)
    return None if negated else letter


def _is_dismissed(text: str, letter: re.Match[str]) -> bool:
    after = _DISMISSED.match(text[letter.end() : letter.end() + _NEAR])
    return bool(after or _NOT.search(text[max(0, letter.start() - _NEAR) : letter.start()]))


def _is_reason(text: str, letter: re.Match[str]) -> bool:
    """Whether the letter stands in a clause that gives a reason, as A in "B, because A is too large"."""
    before = text[max(0, letter.start() - _NEAR) : letter.start()]
    return _BECAUSE.search(re.split(r"[.\n;]", before)[-1]) is not None
