r"""Reads the answer off a completion.

What counts, in order: what follows the end of thinking; then the first "final answer is $...$. I hope"
of few-shot prompts; the last of <answer> and boxes, several boxes where they are one list; what is
stated ("The answer is"); the last whole formula. `extract_answer` of the Qwen2.5-Math evaluation toolkit
(evaluation/parser.py) has this order too, but takes the last number where this takes a formula, what an
unclosed box holds, all that follows "answer is", and the article "a" for a choice.

pytest tests/unit/grading
"""

import itertools
import re

from lr_ray.grading.boxed import Box, boxes
from lr_ray.grading.characters import clean
from lr_ray.grading.choices import choice_letter, chosen
from lr_ray.grading.formulas import Formula, is_glue, last_formula, runs
from lr_ray.grading.latex import key, tidy
from lr_ray.grading.statements import asserted, corrected, stated

KINDS = ("math", "choice", "exact", "number", "demo")
_LOOKED_AT = 4_000  # characters from the end, for a formula that is neither boxed nor stated

# The full stop marks a finished number: a completion cut inside one has no answer.
_DEMO_ANSWER = re.compile(r"The answer is (-?\d+)\.(?!\d)")
# As few-shot prompts of Minerva end; the first, for a base model goes on inventing problems.
_MINERVA = re.compile(r"final answer is \$((?:[^$\\]|\\.)*)\$\. I hope", re.DOTALL)
_THINKING = r"(?:think(?:ing)?|thought|reasoning|analysis|reflection|scratchpad|seed:think)"
_FINAL = r"<\|channel\|>final<\|message\|>|assistantfinal"  # of gpt-oss
_THOUGHT = re.compile(rf"(?i)</{_THINKING}>|<\|end_of_thought\|>|◁/think▷|\[/THINK]|{_FINAL}")
_THINKS = re.compile(
    rf"(?i)<{_THINKING}>|<\|begin_of_thought|<\|channel\|>analysis|◁think▷|\[THINK]"
)
_TURN_ENDS = re.compile(r"<\|(?:im_end|endoftext|eot_id|end_of_text|end▁of▁sentence)\|>")
_ANOTHER = re.compile(r"\n[ \t*#]*(?:human|user|question|problem|q)(?: \d+)?\**:", re.IGNORECASE)
# What may stand alone as an answer: a letter, with its choice, or a number, but not "1. First"
_ALONE = re.compile(r"\s*(?:\(?[A-HJ](?:[).:][^\n]*)?|(?!\d+[.):]\s)[-+$]*\d[^\n]{0,40})\s*")
_ANSWER = re.compile(r"<(final_)?answer>(?P<text>(?:(?!</?(?:final_)?answer>).)*)(?:</(?:final_)?answer>|\Z)",
                     re.IGNORECASE | re.DOTALL)  # fmt: skip
_OPEN_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_PLACEHOLDER = re.compile(
    r"(?:(?:the|your|my|final|numerical|correct)\s*)*(?:answer|result|solution|number|value|letter|choice|答案)?"
    r"(?:\s*(?:here|goes here))?|[\s.…?_*\\]*|\\?(?:[lc]?dots|square|cdot)",
    re.IGNORECASE,
)
_NOT = re.compile(r"(?:\b(?:not|rather\s+than|instead\s+of)|不是)[\s$(]*\Z", re.IGNORECASE)
_NAME = re.compile(
    r"[\s$]*(?P<name>(?:\\?[A-Za-z]+(?:_\{?\w+\}?)?|[A-Za-z]\([\w, ]{1,8}\))\s*=)[\s$]*\Z"
)


def extract_answer(completion: str, kind: str, cut: bool = False) -> str | None:
    r"""The answer that a completion gives, or None when it gives none.

    `demo`: N of the last "The answer is N.". `choice`: a letter, from a box, else stated, else the last
    one that stands alone. The others: see the module; `exact` reads the whole completion where none of
    these rules finds an answer. `cut`: the limit on tokens ended the completion; its
    last word may be half of one, and unfinished work answers by a box or a whole statement alone.
    Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: {kind!r}; must be one of {', '.join(KINDS)}")
    if kind == "demo":
        answers = _DEMO_ANSWER.findall(completion)
        return answers[-1] if answers else None
    whole = _after_thinking(_of_turn(clean(completion)), cut)
    text = _before_another(whole)
    cut = cut and text is whole
    if kind == "exact":
        return _exact(text, cut) or None
    return (_choice if kind == "choice" else _math)(text, cut) or None


def _of_turn(text: str) -> str:
    """The text up to the token that ends a turn; what follows is another's."""
    turn = _TURN_ENDS.split(text, maxsplit=1)[0]
    return turn if turn.strip() else text


def _before_another(text: str) -> str:
    """The text up to a question that a base model goes on to invent, once it has answered its own."""
    for mark in itertools.islice(_ANOTHER.finditer(text), 3):
        said = text[: mark.start()]
        if _answering(said) or stated(said) or _ALONE.fullmatch(said):
            return said
    return text


def _after_thinking(text: str, cut: bool) -> str:
    """What is said after thinking; thinking itself only where a model that was not cut says no more."""
    ends = list(_THOUGHT.finditer(text))
    said = text[ends[-1].end() :] if ends else text
    starts = list(_THINKS.finditer(said))
    if starts and cut:
        return said[: starts[0].start()]
    return said if said.strip() or cut else text


def _math(text: str, cut: bool) -> str | None:
    minerva = _MINERVA.search(text)
    if minerva:
        return minerva[1].strip()
    tagged, boxed = _tagged(text, cut), _answering(text)
    if tagged and not (boxed and boxed[-1].start > tagged.end):
        return _of_tag(tagged.content)
    if boxed:
        return corrected(text[boxed[-1].end :]) or _contents(text, boxed)
    plain = _unboxed(text, cut)
    answer = stated(plain)
    if answer or cut:
        return answer
    return last_formula(asserted(plain[-_LOOKED_AT:]))


def _exact(text: str, cut: bool) -> str | None:
    """What is tagged, boxed or stated, else all that is said."""
    tagged, boxed = _tagged(text, cut, signs=True), _answering(text)
    if tagged:
        return tagged.content
    if boxed:
        return _contents(text, boxed)
    return stated(_unboxed(text, cut)) or (None if cut else text.strip())


def _choice(text: str, cut: bool) -> str | None:
    tagged, boxed = _tagged(text, cut), _answering(text)
    letter = choice_letter(_contents(text, boxed)) if boxed else None
    if letter is not None:
        return letter
    if tagged:
        return choice_letter(tagged.content) or chosen(tagged.content, cut=False)
    if cut:
        text = _whole_words(text)
    return chosen(text, cut)


def _tagged(text: str, cut: bool, signs: bool = False) -> Formula | None:
    """The last <answer> that says something; one that stays open counts where its end was a stop.

    `signs`: so do signs of ASCII alone, such as [] or +.
    """

    def says(said: str) -> bool:
        if re.search(r"\w|[^\x00-\x7f]", said):
            return not _is_placeholder(said)
        return signs and not _PLACEHOLDER.fullmatch(said)

    found = [m for m in _ANSWER.finditer(text) if says(m["text"].strip())]
    if not found or (cut and not found[-1][0].endswith(">")):
        return None
    return Formula(found[-1].start(), found[-1].end(), found[-1]["text"].strip())


def _of_tag(answer: str) -> str:
    """The answer in a tag, which may be a whole text."""
    if _OPEN_BOX.search(answer) or stated(answer):
        return _math(answer, cut=False) or answer
    if len(answer) > _LOOKED_AT:
        return answer
    formulas = runs(f"{answer},")  # 5! is a factorial before a comma
    if formulas and formulas[0].start == 0 and formulas[0].end == len(answer):
        return answer
    return stated(f"Answer: {answer}") or answer


def _answering(text: str) -> list[Box]:
    """The last closed box that holds an answer, with those before it that are one list with it.

    A box that is only spoken of ("put it in \\boxed{}") holds none.
    """
    found: list[Box] = []
    for box in reversed(boxes(text)):
        if found and not _is_one_list(text, box, found[0]):
            break
        if found or not (_is_empty(box) or _NOT.search(text, box.start - 30, box.start)):
            found.insert(0, box)
    return found


def _is_one_list(text: str, box: Box, following: Box) -> bool:
    if box.end > following.start or _is_empty(box):
        return False
    between = text[box.end : following.start]
    name = _NAME.search(between[-60:])
    return is_glue(between[: len(between) - len(name[0])] + " " if name else between)


def _is_empty(box: Box) -> bool:
    if not box.braced and re.match(r"[A-Za-z]{2}|[aI]\b|\W*\Z", box.content):
        return True
    if len(box.content) > 60 or re.fullmatch(r"[^\\]*\d[^\\]*", box.content):
        return False  # a number, most often, which takes no tidying to see
    return _is_placeholder(key(tidy(box.content)))


def _is_placeholder(content: str) -> bool:
    return _PLACEHOLDER.fullmatch(content.strip("[]<>()\"'")) is not None


def _contents(text: str, listed: list[Box]) -> str:
    """The content of the boxes as one answer, with the names before them where these differ."""
    contents = [box.content for box in listed]
    if len(set(contents)) == 1:
        return contents[-1]
    names = [_NAME.search(text[max(0, box.start - 40) : box.start]) for box in listed]
    if len({name["name"] for name in names if name}) > 1:
        named = zip(names, contents, strict=True)
        contents = [f"{name['name']} {content}" if name else content for name, content in named]
    return ", ".join(contents)


def _unboxed(text: str, cut: bool) -> str:
    """The text without boxes that hold no answer, and up to one that never closes."""
    parts, at = [], 0
    for box in boxes(text):
        parts.append(text[at : max(at, box.start)])
        at = max(at, box.end if box.braced else box.inside)
    text = " ".join([*parts, text[at:]])
    # No box is closed, so the first one that opens was cut, and all that follows with it.
    text = _OPEN_BOX.split(text, maxsplit=1)[0]
    return _whole_words(text) if cut else text


def _whole_words(text: str) -> str:
    """The text without its last word, of which the limit may have cut a part."""
    return text if text[-1:].isspace() else text[: max(text.rfind(" "), text.rfind("\n")) + 1]
