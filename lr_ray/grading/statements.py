r"""What a text states as its answer: "The answer is 12, since ...", **Answer:** $x+1$, 答案是：12.

pytest tests/unit/grading/test_kinds.py
"""

import re

from lr_ray.grading.formulas import (
    FACTORIAL,
    GLUE,
    Formula,
    formula_at_start,
    last_formula,
    one_quantity,
    runs,
    scale_after,
)  # fmt: skip

_LOOKED_AT = 1_000  # characters after "is"
_TRIED = 20  # statements, from the last one
_IS = (
    r"(?:is|was|would be|will be|must be|should be|has to be|can only be|equals|becomes|"
    r"(?:comes|works|turns) out (?:to be|to|as)|comes to|are)"
)
# What is not said to be so: "if the answer is 12", "I don't think the answer is 12", "a wrong answer is 12"
_SUPPOSED = re.compile(
    r"(?:(?:\b(?:if|whether|suppose|assuming|doubt)|(?:n't|\bnot|(?<!\bI\s)\b(?:might|may|would))\s+(?:think|believe|say|guess))\s+(?:that\s+)?"
    rf"(?:the|my|our)\s+(?:\w+\s+)?answer|\b(?:wrong|incorrect)\s+answer)\s+{_IS}\b(?:[^.,;\n]|[.,]\d)*",
    re.IGNORECASE,
)
# "Wait, that is wrong; it is 12", "No, it should be 12", "I meant 12", but not "Is it 13? No, it is 12"
_WRONG = r"no|actually|sorry|oops|wrong|incorrect|mistaken?|not\s+(?:right|correct)"
CORRECTION = (
    rf"(?:(?<!\?\s)(?<!\bno\s)(?<!\bnot\s)\b(?:(?:{_WRONG})(?:,?\s+wait)?[.,;:!\s-]*\b(?:it|that|this)(?:'s|\s+is)"
    rf"|(?:{_WRONG}|error|wait|forgot|misread)\b[^?\n]{{0,60}}?(?<!maybe\s)(?<!perhaps\s)\b(?:it|that|this)\s+(?:should|must)\s+(?:be|have\s+been))"
    r"(?:\s+actually)?|(?<![\w'\"]\s)\bI\s+meant|\bcorrection:|(?:不对|错了)[^。?\n]{0,10}。?应该?[是为])"
)
_ABROAD = "respuesta|resposta|réponse|risposta|antwort|ответ|đáp án"  # answer
_STATED = re.compile(
    rf"(?<![A-Za-z])(?:answers?|final\s+(?:result|solution|value))[*_]*"
    r"(?:,?\s+(?:to|of|for|in|we|that|you|then|thus|therefore|hence|here|indeed)\b[^.\n$]{0,60}?)?,?\s+"
    rf"(?P<is>{_IS}\b)"
    rf"|(?P<colon>(?<![A-Za-z])(?:(?:answer|final\s+result|{_ABROAD})[*_\"]*\s*[:=]"
    r"|ans(?:\s*[:=]|\.(?=\s+\S)))"
    r"|^[#*_ \t]*(?:final[ \t]+)?answer[ \t*_#]*$)"
    r"|(?P<asian>(?:答案|答え|正解|答|정답|답)(?:(?:应该|应当|應該|应|應)?[是为為]|は|은|는)?\s*:?"
    rf"|\b(?:{_ABROAD})\b[^.\n:]{{0,40}}?(?<!\bno)\s(?:es|est|ist|lautet|è|é)\b(?!\s+nicht)\s*:?)"
    r"|^(?P<hashes>####)(?=\s*[-+$]?[\d.,/]+%?\s*$)",
    re.IGNORECASE | re.MULTILINE,
)
_REVERSED = re.compile(
    r"(?<!\s)\s+(?:is|must be|would be)\s+(?:the|our|my)\s+(?:(?:final|correct|right)\s+)?answer\b",
    re.IGNORECASE,
)
_FILLERS = re.compile(
    r"(?:[\s:*_=#>`\"]|\*\*|(?:therefore|thus|hence|then|so|simply|just|exactly|approximately|about|roughly|"
    r"equal to|either|given by|found to be|now|clearly|"
    r"(?:most )?likely|probably|perhaps|maybe|indeed|actually|the number|the value|that)\b[,:]?(?![-\w]))+",
    re.IGNORECASE,
)
_BOLD = re.compile(r"(?<![\w)])\*\*(?!\s)([^*\n]+?)\*\*(?![\w(])")
_MINUS = re.compile(r"^(?:minus|negative)\s+(\$?)(?=\d)", re.IGNORECASE)
# What is said of an answer, and is none.
_COMMENT = re.compile(
    r"(?:(?:also|indeed|clearly|thus|therefore|now|really|very|both|not|never|n't|still)\s+)*"
    r"(?:correct|incorrect|right|wrong|true(?=\s+(?:because|since|as|for|when)\b)|reasonable|plausible|valid|"
    r"verified|confirmed|consistent|checked|sensible|fine|good|in|as follows|below|above|shown|"
    r"expected|reached|arrived|found|obtained|computed|calculated|derived|based|simply the sum|unique|"
    r"clear|obvious|"
    r"straightforward|an? (?:integer|number|fraction|whole number|positive)|what|to be|expressed|written|"
    r"given(?!\s+by)|boxed|not|n't)\b|[.?!]",
    re.IGNORECASE,
)
# A full stop ends the sentence where a space or the end follows, but not after "Mrs" or in "p.m.".
_SENTENCE_END = re.compile(
    r"\n|。|(?<!\.[A-Za-z])(?<!\b[MR][rs])(?<!\bMrs)(?<!\bDr)(?<!\bSt)\.(?=\s|$|\*|[\"')])"
    rf"|\.(?=\s+[A-Z])(?<=\.m\.)|[?](?=\s|$)|(?!{FACTORIAL})!(?=\s|$|\*)|！|</"
)
# What goes on after an answer in words: "Monday, as day 3 is", "No (since yes would need 4)".
_CLAUSE = re.compile(
    r"[,;]?\s+\(?(?:because|since|as|so|which|where(?:as)?|when|if|unless|but|not|rather than|given|due|"
    r"assuming|provided|making|meaning|thus|hence|therefore|i\.e|that|with|for)\b|\s*[-—]+\s+(?=[A-Za-z]{2})|\s+\([A-Za-z]{2,}"
    r"|[,，]?而不是|,(?=[\u3040-\u9fff\uac00-\ud7a3])|(?:(?<=^no)|(?<=^yes))[,;:-]",
    re.IGNORECASE,
)
# Words after a number that make another one of it.
_CHANGED = (
    r"(?:less|more|fewer|greater|times|factorial|squared|cubed|thirds?|halves|half|quarters?|fourths|fifths|sixths|"
    r"eighths|tenths|hundredths|percent|plus|minus|over|divided|(?:in\s+)?base|mod|choose|or\s+(?:more|less|fewer)|to(?=\s+\$?\d))\b"
)
_GOES_ON = re.compile(
    rf"\s*(?:[=/^%_{{]|:(?=[\d$])|,?\\(?!\()[%!A-Za-z])|\s*\(?{_CHANGED}", re.IGNORECASE
)
_CORRECTED = re.compile(  # but not "actually, that is 3 times 4"
    rf"{CORRECTION}(?=[-+\s$*\\(]*\d|\s*[$\\])(?![-+\s$*\\(]*[\d.,]+\$?\s+{_CHANGED})",
    re.IGNORECASE,
)
_ITEM_GLUE = re.compile(r"\s*(?:,\s*(?:and|or)?|\band\b|\bor\b|[和或及与])\s*", re.IGNORECASE)
# After a number that is no part of the answer: "12 apples, and 3 oranges remain".
_NEWS = re.compile(
    r"(?:\s+[A-Za-z]+){0,3}?\s+(?:is|are|was|were|will|would|has|have|had|remains?|remained|more|less|fewer|each)\b"
)
# Up to four words of a unit, ended by what is no part of one.
_UNIT = re.compile(
    r"(?:\s*(?!(?:for|when|if|after|as|at|on|from|by|with|and|or|but|so|to|given|of|not|because|since|which|where|rather|than|instead|"
    r"who|that|times|und|nicht|et|is|are|was|were|we|it|this|there|in(?=\s+[A-Za-z]))\b)[A-Za-zμ°€£]+\.?(?:\^\{?-?\d\}?|[²³])?"
    r"(?:/[A-Za-z]+(?:\^\{?-?\d\}?)?)?){1,4}"
)


def stated(text: str) -> str | None:
    """The answer that a text states last, or None. A remark on an answer states none."""
    text = asserted(text)
    found = sorted(
        [*_STATED.finditer(text), *_REVERSED.finditer(text)], key=lambda mark: mark.end()
    )
    for mark in found[: -_TRIED - 1 : -1]:
        if mark.re is _REVERSED:
            answer = _before(text[max(0, mark.start() - _LOOKED_AT) : mark.start()])
        else:
            answer = _after(text[mark.end() : mark.end() + _LOOKED_AT], mark["is"] is None)
        if answer:
            return corrected(text[mark.end() :]) or answer
    return None


def asserted(text: str) -> str:
    """The text without answers that it only supposes."""
    return _SUPPOSED.sub(" ", text)


def corrected(text: str) -> str | None:
    """The answer that takes the place of one before the text, or None."""
    marks = list(_CORRECTED.finditer(text))
    return _after(text[marks[-1].end() :][:_LOOKED_AT], False) if marks else None


def _before(text: str) -> str | None:
    """The formula that "is the answer" follows."""
    line = text.rpartition("\n")[2]
    last = last_formula(line)
    return last if last and line.rstrip(" $*)").endswith(last.rstrip(" $*)")) else None


def _after(rest: str, line_only: bool) -> str | None:
    """What is stated by what follows "The answer is"; `line_only`: "Answer:", of which a line is all."""
    rest = _BOLD.sub(r"\1", rest)
    filler = _FILLERS.match(rest)
    if filler:
        rest = rest[filler.end() :]
        if "\n" not in filler[0]:
            rest = re.sub(r"^-\s+(?=\d)", "-", rest)
    if _COMMENT.match(rest):
        return None
    rest = _MINUS.sub(r"\1-", rest)
    if re.match(r"[^.,;?\n]{0,30}\?", rest):
        return None
    first = formula_at_start(rest)
    if first and not _GOES_ON.match(rest, first.end):
        return _formulas(rest, first)
    rest = re.sub(r"^\\?\$(?=\d)", "", rest)
    end = _SENTENCE_END.search(rest)
    sentence = (rest[: end.start()] if end else rest).strip("*`_ \t")
    found = runs(f"{sentence},")  # 5! is a factorial before a comma, not at an end
    starts = bool(found) and found[0].start == 0
    if starts and not _GOES_ON.match(sentence, found[0].end):
        return _number_with_unit(sentence, found)
    clause = _CLAUSE.search(sentence)
    answer = sentence[: clause.start()] if clause and clause.start() else sentence
    answer = answer.strip("*`_ ").rstrip(",;")
    if starts or _is_short(answer):
        return answer
    if line_only:
        return last_formula(rest.partition("\n")[0])
    return last_formula(answer) or answer


def _number_with_unit(sentence: str, found: list[Formula]) -> str:
    """The formula that a sentence begins with, or the list of formulas, with the unit after it."""
    end = _after_unit(sentence, found[0].end)
    if len(found) > 1 and (both := one_quantity(sentence, found[0], found[1])):
        return sentence[:both]
    for following in found[1:]:
        glue = _ITEM_GLUE.fullmatch(sentence, end, following.start)
        if not glue or ("," in glue[0] and _NEWS.match(sentence, following.end)):
            break
        end = _after_unit(sentence, following.end)
    return sentence[: end + len(scale_after(sentence, end))].rstrip(" ,;")


def _after_unit(sentence: str, end: int) -> int:
    unit = _UNIT.match(sentence, end)
    return unit.end() if unit else end


def _is_short(answer: str) -> bool:
    """Whether a text is an answer in words, such as a name, or a formula that begins oddly."""
    if not re.search(r"\d|\$|\\[A-Za-z]", answer) or answer[:1] in "([{\\|":
        return True
    return re.search(r"[ \u3040-\u9fff\uac00-\ud7a3]", answer) is None


def _formulas(rest: str, first: Formula) -> str:
    """The formula that a statement begins with, or the list of them."""
    parts, end = [first.content], first.end
    while glue := GLUE.match(rest, end):
        following = formula_at_start(rest[glue.end() :])
        if following is None or "\n" in glue[0]:
            break
        parts.append(following.content)
        end = glue.end() + following.end
    return ", ".join(parts) + scale_after(rest, end)
