r"""What a text states as its answer: "The answer is 12, since ...", **Answer:** $x+1$, 答案是：12.

pytest tests/unit/grading/test_kinds.py
"""

import itertools
import re
from collections.abc import Iterator

from lr_ray.grading.formulas import Formula, formula_at_start, last_formula, runs, scale_after

_LOOKED_AT = 1_000  # characters after "is"
_TRIED = 20  # statements, from the last one
_NOT_SAID = r"(?<!\bif the )(?<!\bif my )(?<!\bif our )(?<!\bwhether the )(?<!\bsuppose the )"
_IS = (
    r"(?:is|was|would be|will be|must be|should be|has to be|can only be|equals|becomes|"
    r"(?:comes|works|turns) out (?:to be|to|as)|comes to|are)"
)
_STATED = re.compile(
    rf"{_NOT_SAID}(?<![A-Za-z])answers?[*_]*"
    r"(?:,?\s+(?:to|of|for|in|then|thus|therefore|hence|here|indeed)\b[^.\n$]{0,60}?)?,?\s+"
    rf"(?P<is>{_IS}\b)"
    r"|(?P<colon>(?<![A-Za-z])(?:answer[*_]*\s*[:=]|ans(?:\s*[:=]|\.(?=\s+\S)))"
    r"|^[#*_ \t]*(?:final[ \t]+)?answer[ \t*_#]*$)"
    r"|(?P<asian>(?:答案|答え|正解|答|정답|답)(?:是|为|應為|应为|は|은|는)?\s*:?)"
    r"|^(?P<hashes>####)(?=\s*[-+$]?[\d.,/]+%?\s*$)",
    re.IGNORECASE | re.MULTILINE,
)
_REVERSED = re.compile(
    r"(?<!\s)\s+(?:is|must be|would be)\s+(?:the|our|my)\s+(?:(?:final|correct|right)\s+)?answer\b",
    re.IGNORECASE,
)
_FILLERS = re.compile(
    r"(?:[\s:*_=#>`]|\*\*|(?:therefore|thus|hence|then|so|simply|just|exactly|approximately|about|roughly|"
    r"equal to|given by|found to be|now|clearly|indeed|actually|the number|the value|that)\b[,:]?(?![-\w]))+",
    re.IGNORECASE,
)
# What is said of an answer, and is none.
_COMMENT = re.compile(
    r"(?:(?:also|indeed|clearly|thus|therefore|now|really|very|both|not|never|n't|still)\s+)*"
    r"(?:correct|incorrect|right|wrong|true(?=\s+(?:because|since|as|for|when)\b)|reasonable|plausible|valid|"
    r"verified|confirmed|consistent|checked|sensible|fine|good|in|as follows|below|above|shown|"
    r"expected|found|obtained|computed|calculated|derived|based|simply the sum|unique|clear|obvious|"
    r"straightforward|an? (?:integer|number|fraction|whole number|positive)|what|to be|expressed|written|"
    r"given(?!\s+by)|boxed|not|n't)\b|[.?!]",
    re.IGNORECASE,
)
# A full stop ends the sentence where a space or the end follows, but not after "Mrs" or in "p.m.".
_SENTENCE_END = re.compile(
    r"\n|。|(?<!\.[A-Za-z])(?<!\bM[rs])(?<!\bMrs)(?<!\bDr)(?<!\bSt)\.(?=\s|$|\*|[\"')])"
    r"|\.(?=\s+[A-Z])(?<=\.m\.)|[?](?=\s|$)|!(?=\s|$|\*)|！|</"
)
_CLAUSE = re.compile(
    r"[,;]?\s+(?:because|since|which|where(?:as)?|but|assuming|provided|rather than|instead of|not)\b"
    r"|,\s*(?:as|so|for|due|given|when|while|making|meaning|thus|hence|therefore|i\.e|that|with|if|who|whose|"
    r"obtained|using|by|rounded|giving|we|it|this|he|she|they|there|also|then|is|are|has|have|found|in|at|on|"
    r"and (?:then|so|we|it|this|that|the|he|she|they|not|there|I))\b"
    r"|;\s*[A-Za-z]{3,}(?!\s*=)|\s+-+\s+(?=[A-Za-z]{2,})|\s*—|\s+\((?!mod\b|base\b)[A-Za-z]{2,}[\s)]"
    r"|,(?=[\u3040-\u9fff\uac00-\ud7a3])|\s+(?:as|so)\s+(?=[a-z]{2,})|\s+(?:when|if)\s+(?=we|you|the\b)",
    re.IGNORECASE,
)
_GLUE = r"(?:\s|,|;|\band\b|\bor\b|&|和|或|及|与|~|\\(?:quad|qquad|,|;| |text\s*\{\s*,?\s*(?:and|or)\s*\}))"
_BETWEEN = re.compile(rf"{_GLUE}+")
# Words after a number that make another one of it.
_CHANGED = (
    r"(?:less|more|fewer|greater|times|factorial|squared|cubed|thirds?|halves|half|quarters?|fourths|fifths|sixths|"
    r"eighths|tenths|hundredths|percent|plus|minus|over|divided|base|mod|to(?=\s+\$?\d))\b"
)
_GOES_ON = re.compile(rf"\s*(?:[=/^%]|:(?=[\d$])|\\%)|\s*\(?{_CHANGED}", re.IGNORECASE)
_ITEM_GLUE = re.compile(r"\s*(?:,\s*(?:and|or)?|\band\b|\bor\b)\s*", re.IGNORECASE)
_OTHERWISE = re.compile(rf"{_GOES_ON.pattern}|\s+of\b", re.IGNORECASE)
# Up to four words of a unit, ended by what is no part of one.
_UNIT = re.compile(
    r"(?:\s*(?!(?:for|when|if|after|as|at|on|from|by|with|and|or|but|so|to|given|of|not|because|since|which|where|rather|than|instead|"
    r"who|that|times|is|are|was|were|we|it|this|there|in(?=\s+[A-Za-z]))\b)[A-Za-zμ°€£]+\.?(?:\^\{?-?\d\}?|[²³])?"
    r"(?:/[A-Za-z]+(?:\^\{?-?\d\}?)?)?){1,4}"
)


def stated(text: str) -> str | None:
    """The answer that a text states last, or None. A remark on an answer states none."""
    for rest, line_only in _statements(text):
        answer = _stated(rest, line_only)
        if answer:
            return answer
    return None


def joined(text: str, parts: list[Formula]) -> list[Formula]:
    """The last of the parts, with those before it that are one list with it."""
    first = len(parts) - 1
    while first > 0 and is_glue(text[parts[first - 1].end : parts[first].start]):
        first -= 1
    return parts[first:]


def is_glue(between: str) -> bool:
    """Whether what stands between two answers makes them one list: commas, "and", spaces of a line."""
    between = re.sub(r"[$*]|\\[()\[\]]", " ", between)
    if "\n" in between:  # items of a list, each on a line of its own
        return re.fullmatch(r"[\s,;.]*\n\s*(?:[-\u2022]|\d\.|\(\w\))\s*", between) is not None
    return _BETWEEN.fullmatch(between) is not None


def _statements(text: str) -> Iterator[tuple[str, bool]]:
    """What follows each statement, from the last, and whether its line is all of it."""
    found = [(m.end(), m.start(), m) for m in _STATED.finditer(text)]
    found += [(m.start(), -1, m) for m in _REVERSED.finditer(text)]
    for at, start, mark in sorted(found, key=lambda f: f[0])[: -_TRIED - 1 : -1]:
        if start < 0:
            line = text[max(0, at - _LOOKED_AT) : at].rpartition("\n")[2]
            last = [f for f in (last_formula(line),) if f]
            if last and line.rstrip(" $*)").endswith(last[0].rstrip(" $*)")):
                yield f"${last[0]}$", False
        else:
            yield text[at : at + _LOOKED_AT], mark["is"] is None


def _stated(rest: str, line_only: bool) -> str | None:
    filler = _FILLERS.match(rest)
    if filler:
        rest = rest[filler.end() :]
        if "\n" not in filler[0]:
            rest = re.sub(r"^-\s+(?=\d)", "-", rest)
    if _COMMENT.match(rest):
        return None
    first = formula_at_start(rest)
    if first and not _GOES_ON.match(rest, first.end):
        return _formulas(rest, first)
    line = rest.partition("\n")[0]
    end = _SENTENCE_END.search(rest)
    sentence = (rest[: end.start()] if end else rest).strip("*`_ \t")
    found = runs(f"{sentence},")  # 5! is a factorial before a comma, not at an end
    if found and found[0].start == 0 and not _GOES_ON.match(sentence, found[0].end):
        return _number_with_unit(sentence, found)
    clause = _CLAUSE.search(sentence)
    answer = sentence[: clause.start()] if clause and clause.start() else sentence
    answer = answer.strip().strip("*`_").strip().rstrip(",;")
    if (found and found[0].start == 0) or _is_short(answer):
        return answer
    return last_formula(line if line_only else answer) or (None if line_only else answer)


def _number_with_unit(sentence: str, found: list[Formula]) -> str:
    """The formula that a sentence begins with, or the list of formulas, with the unit after it."""
    end, unit = found[0].end, _UNIT.match(sentence, found[0].end)
    for before, following in itertools.pairwise(found):
        after_unit = unit.end() if unit and end == before.end else end
        glue = _ITEM_GLUE.fullmatch(sentence, after_unit, following.start)
        if glue is None:
            break
        unit = _UNIT.match(sentence, following.end)
        if _OTHERWISE.match(sentence, unit.end() if unit else following.end):
            break  # 12, or 3 times 4
        end = following.end
    unit = _UNIT.match(sentence, end)
    scale = scale_after(sentence, end)
    return sentence[: unit.end() if unit else end + len(scale)].rstrip(" ,;")


def _is_short(answer: str) -> bool:
    """Whether a text is an answer in words, such as a name, or a formula that begins oddly."""
    if not re.search(r"\d|\$|\\[A-Za-z]", answer) or answer[:1] in "([{\\|":
        return True
    return re.search(r"[ \u3040-\u9fff\uac00-\ud7a3]", answer) is None


def _formulas(rest: str, first: Formula) -> str:
    """The formula that a statement begins with, or the list of them."""
    parts, last = [first.content], first
    while True:
        glue = _BETWEEN.match(rest, last.end)
        following = formula_at_start(rest[glue.end() :]) if glue and "\n" not in glue[0] else None
        if glue is None or following is None:
            break
        last = Formula(glue.end(), glue.end() + following.end, following.content)
        parts.append(following.content)
    return ", ".join(parts) + scale_after(rest, last.end)
