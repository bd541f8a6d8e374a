r"""The letter that a completion chooses among the options of a question.

pytest tests/unit/grading/test_kinds.py
"""

import re

from lr_ray.grading.statements import CORRECTION

_LOOKED_AT = 200  # letters, from the last one
_NEAR = 80  # characters before and after a letter
_GLUE = r"(?:[\s).:]*[,;&/]\s*|[\s).:,]*\b(?:and|or|nor)\s+)"  # of several options, as in "A and C"
_ANOTHER = re.compile(rf"{_GLUE}\(?[A-J](?![A-Za-z0-9_'])")
# "A or B", but not "B, and A is wrong"
_ALSO = re.compile(
    rf"{_ANOTHER.pattern}(?!(?:{_ANOTHER.pattern})*\)?\s+(?:is|are|was|would|cannot|can't|does|fails|being)\b)"
)
_CHOSEN = re.compile(r"\(?([A-Ja-j])(?:[).:,;!*\s\u3000-\u9fff]|$)")
# The article "A" is none, nor is a letter of a word or formula, or the unit of 5 A.
_LETTER = re.compile(
    r"(?<![A-Za-z0-9_\\'\u2019])(?:\(([A-Ja-e])\)"
    r"|(?<!\d )([Aa](?! (?!(?:is|and|or|because|since|as|but)\b)[a-z\d])|[B-Jb-e]))"
    r"(?![A-Za-z0-9_'\u2019])"
)
# A text that is a letter, or begins with one as a list does: "G", "(h)", "F. a force". I alone is a word.
_ONLY = re.compile(
    r"\W*(?:(?:[Oo]ption|[Cc]hoice)\W+)?([A-Ja-j])(?:[.)]?\W*\Z|\)\s|(?<![Ii])[.:]\s)"
)
_MARK = re.compile(r"[).:]|\*\*")
# Before a letter: "The answer to this question is most likely (", 故选
_STATED = re.compile(
    r"(?:\b(?:answer|choice|option)\b(?:(?![\s(*][A-J][\s).:,*])[^.\n]){0,24}?(?:\s(?:is|be)\b|:)|\b(?:choose|pick|select|go\s+with)\b"
    rf"|答案|选项(?=[是为])|选(?!项)|{CORRECTION})"
    r"(?:[\s:*_$({\[<\"]|\\\(|\\text\w*|[是为择选项]|(?:option|choice|letter|answer|therefore|thus|hence|simply|clearly|"
    r"most|likely|probably|the)\b,?)*\Z",
    re.IGNORECASE,
)
# Before and after one that a text concludes with: "Hence, option (C). Option (D) is tempting."
_CONCLUDED = re.compile(
    r"\b(?:hence|therefore|thus|so)\b,?\s+(?:(?:the|option|choice|answer)\s+)*[\s$*\\(]*\Z",
    re.IGNORECASE,
)
_ENDS = re.compile(r"[)*$\\]*(?:[.!](?=\s|\Z)|\n|\Z)")
# After the text of one: "(B) 12 m: this is correct"
_SAID = r"(?:(?![\s(][A-J][).:])[^\n]){0,60}?\s*(?:[-:]|[-=]>|→)\s+(?:[Tt]his\s+is\s+)?"
# After one: "is the only correct choice", "选项正确"
_RIGHT = re.compile(
    r"[).:*]*\s*(?:(?:is|must be|would be)\s+(?:(?!second|next|partly|partially|almost)\w+\s+){0,3}?"
    r"(?:correct|right|true|answer|best|choice)\b(?!\s+if\b)"
    r"|(?:right|correct|true|yes)\b|[✓✔✅]|(?:选项)?是?(?:正确|对的))"
    rf"|{_SAID}[Cc]orrect\b|[).:]*\s*is\s+better\b(?!\s+known|[^.\n]*\bbut\b)"
)
# After one that is dismissed, alone or with others ("and C are too large"), and before one.
_DISMISSED = re.compile(
    rf"(?:{_ANOTHER.pattern}\)?)*[.:*\s]*(?:is|are|was|would|can|does|do|must)\s*(?:\w+\s+){{0,2}}?"
    r"(?:n't|not?\b|wrong|incorrect|false|impossible|invalid|too\b|ruled|eliminated|excluded|out\b)"
    r"|[).:*\s]*(?:wrong|incorrect|false|fails\b|no\b|not\b|too\b|[✗✘❌]|(?:选项)?是?(?:错|不))"
    rf"|{_SAID}(?:[Ii]ncorrect|[Ww]rong|(?:not|Not)\s+correct)\b"
)
_NOT = re.compile(
    r"(?:\b(?:(?:can)?not|neither|nor|unlike|than|over|because|since|as|whereas|while)|n't"
    r"|\b(?:eliminat|exclud|reject|rul)\w*(?:\s+out)?|不是|不选|排除"
    rf"|\bnone\s+of(?:\s+(?:the\s+)?(?:options|choices|answers)(?=[\s(]*[A-J]{_GLUE}))?)"
    rf"(?:[\s(]+(?:be|the|option|choice|answer|-?[\d.]+))*[\s:*(]*(?:\(?[A-J]{_GLUE})*\Z",
    re.IGNORECASE,
)


def choice_letter(text: str) -> str | None:
    """The letter of an answer that names one choice, such as B, (b), B. or \\text{(B) } 12."""
    bare = re.sub(r"\\[A-Za-z]+|[{}$*]", " ", text).strip()
    found = _CHOSEN.match(bare)
    if found is None or _ANOTHER.match(bare, found.end(1)):
        return None
    return found[1].upper()


def chosen(text: str, cut: bool) -> str | None:
    """The letter that a text without boxes chooses, or None.

    The last one that is stated or called right; else the last one that is marked as a choice, or stands
    alone. A letter that is dismissed, or gives a reason, counts for none. `cut`: those last two do not
    count.
    """
    text = re.sub(r"(?<!\w)'([A-Ja-j])'(?!\w)", r'"\1"', text)
    alone: list[re.Match[str]] = []
    for letter in list(_LETTER.finditer(text))[: -_LOOKED_AT - 1 : -1]:
        before = text[max(0, letter.start() - _NEAR) : letter.start()]
        after = text[letter.end() : letter.end() + _NEAR]
        if _NOT.search(before):
            continue
        if _STATED.search(before) and not _ALSO.match(after):
            return _name(letter)
        if _DISMISSED.match(after):
            continue
        if _RIGHT.match(after) or (_CONCLUDED.search(before) and _ENDS.match(after)):
            return _name(letter)
        if letter[1] or letter[2] in "ABCD" or (letter[2] == "E" and _MARK.match(after)):
            alone.append(letter)
    if cut:
        return None
    only = _ONLY.match(text)
    if not alone:
        return only[1].upper() if only else None
    marked = (letter for letter in alone if letter[1] or _MARK.match(text, letter.end()))
    last = next(marked, alone[0])
    earlier = [letter for letter in alone if letter.end() <= last.start()]
    if earlier and re.fullmatch(rf"\)?{_GLUE}\(?", text[earlier[0].end() : last.start()]):
        # "A or B", but "D. Both A and B"
        return only[1].upper() if only and only.end(1) < earlier[0].start() else None
    return _name(last)


def _name(letter: re.Match[str]) -> str:
    return (letter[1] or letter[2]).upper()
