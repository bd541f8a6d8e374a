r"""Variants of a problem whose right answer is known to stay: `evaluation.perturbations`.

A perturbation is a function of the text before any answer choices and of a random generator; it returns
None where it is not known to be safe. None touches a number, LaTeX or the choices.
pytest tests/unit/test_perturbations.py
"""

import random
import re
from collections.abc import Callable, Mapping
from difflib import SequenceMatcher

Perturb = Callable[[str, random.Random], str | None]


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_CHOICES = re.compile(r"\n(?=Answer Choices:|\(?A[).:] )")
_LATEX = re.compile(r"\\|\$(?!\d)|\[asy\]")  # all other dollars stand before prices
_NUMBER = re.compile(r"\S*\d\S*")
_FORMULA = re.compile(
    r"\$\$.*?\$\$|\$(?:\\.|[^$\\])*\$|\\\(.*?\\\)|\\\[.*?\\\]|\\begin\{.*?\\end\{\w+\*?\}|\[asy\].*?\[/asy\]"
    rf"|\\[A-Za-z]+(?:\{{[^{{}}]*\}})*|{_NUMBER.pattern}",
    re.DOTALL,
)
_SENTENCE = re.compile(
    r"(?<=[.?!])(?<!\b[A-Z]\.)(?<!\b(?:Mr|Ms|Dr|St|vs|No)\.)(?<!\bMrs\.) +(?=[A-Z$])"
)
_WORD = re.compile(r"[A-Za-z]+")
# Such a text speaks of its own letters or words, or has code or a function in it.
_ITS_OWN = re.compile(
    r"[\"“”`_]|\w\(|==|\b(?:letters?|words?|spell\w*|alphabet\w*|string|sentence)\b", re.IGNORECASE
)
_NUMERALS = _set(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred "
    "thousand million billion half halves third thirds fourth quarter quarters fifth sixth seventh "
    "eighth ninth tenth once twice thrice double triple dozen dozens percent couple pair pairs first "
    "second"
)
# Words, but plurals, that a swap of two letters makes of others; "there" makes a numeral.
_REAL = _set(
    "trail trial angle angel dairy diary quite quiet united untied unite untie casual causal tired tried "
    "fired fried files flies fires fries tires tries barely barley burnt brunt signing singing silver sliver "
    "scared sacred split spilt satin stain perfect prefect martial marital crop corps carve crave lion loin "
    "complaint compliant farmer framer farming framing grater garter crater carter gliding gilding bulge "
    "bugle salts slats"
)
# Other words of two letters may be formulas, symbols or units: xy, Cu, ms.
_SHORT = _set("am an as at be by do go he if in is it me my no of on or so to up us we")

_MEN = _set(
    "Adam Alan Ali Ben Brian Carl Dan Daniel David Eric Ethan Gary George Henry Jake James Jason Jeff "
    "Jim Joe John Jon Josh Kai Kevin Kyle Leo Luke Max Michael Mike Nathan Noah Paul Peter Raj Robert "
    "Ryan Sam Simon Steve Tim Toby Tom Tyler"
)
_WOMEN = _set(
    "Alice Amanda Amy Ana Ann Anna Becky Brenda Carla Cindy Clara Diana Ella Emily Emma Eva Gina "
    "Hannah Helen Ida Ivy Jane Janet Jenny Jessica Julia Karen Kate Katie Laura Lea Linda Lisa Lucy "
    "Maria Mary Mia Molly Nancy Nia Olivia Rachel Sally Sarah Sophia Susan Tina Uma Wendy Zoe"
)

_UNITS = {
    "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "kg": "kilogram", "g": "gram",
    "mg": "milligram", "L": "liter", "ml": "milliliter", "mL": "milliliter", "ft": "feet", "lb": "pound",
    "lbs": "pound", "oz": "ounce", "hr": "hour", "hrs": "hour", "min": "minute", "mins": "minute",
    "mph": "miles per hour", "km/h": "kilometers per hour", "%": "percent", "¢": "cent",
}  # fmt: skip
_UNIT = re.compile(
    r"(?<![\w.$/])(?P<number>\d+(?:,\d{3})*(?:\.\d+)?)"
    r"(?! ?% \d)(?![mgL](?![A-Za-z]))"  # a remainder; a variable
    rf" ?(?P<unit>{'|'.join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))})"
    r"(?![\w/²³^*·°-])(?! ?[+=(])(?!\.\w)"
)
_PRICE = re.compile(
    r"(?<![\w$])\$(?P<number>\d+(?:,\d{3})*(?:\.\d+)?)(?![\w,./-]*\w)"
    r"(?! ?(?:million|billion|thousand|hundred|trillion|bills?|notes?|coins?|dollars?)\b)"
)

_ASIDES = (
    ("librar|window", "The old library at the end of the street has {a} windows and was built in {b}."),
    ("lighthouse|paint", "A lighthouse on the coast is painted every {a} years and opened in {b}."),
    ("orchestra|violin|concert", "The city orchestra has {a} violins and gave its first concert in {b}."),
    ("museum|painting|picture", "A museum in the capital shows {a} paintings and was founded in {b}."),
)  # fmt: skip
_PREAMBLES = (
    "Please read what follows with care, and take all the time that it needs. It comes from a collection of "
    "exercises that people of many countries have worked on. There is no trick in it.",
    "Here is an exercise that a teacher gave to a class. Some found it easy and others did not. Think about "
    "it calmly before you answer.",
)

# Words that lean on a sentence before, and events, whose order is told by the order of the sentences.
_LEANS = _set(
    "he she it they him her them his hers its their theirs this that these those who which there here "
    "then now also too again another other others rest remaining left same both each more less fewer "
    "after before later next finally so but however instead if when while all total together "
    "altogether gave gives ate eats sold sells bought buys lost loses found finds took takes spent "
    "spends made makes got gets went goes put puts broke breaks grew grows cut cuts uses adds removes "
    "pays paid wins won reads read begins began starts ran runs drove drives drinks drank throws threw "
    "sends sent saw sees met meets"
)
# Of what was said before: "Bob has one."
_ELIDED = re.compile(rf"\b(?:has|have) (?:\d\S*|{'|'.join(_NUMERALS)})\.$")
_STATES = re.compile(r"\b(?:has|have|is|are|costs?|weighs?|contains?|holds?|earns?|lives?|sits?)\b")


def irrelevant(text: str, rng: random.Random) -> str | None:
    """A sentence with numbers about something else: before a question that leans on no noun, or in front."""
    asides = [aside for nouns, aside in _ASIDES if not re.search(nouns, text.lower())]
    if not asides:
        return None
    aside = rng.choice(asides).format(a=rng.randint(12, 90), b=rng.randint(1820, 1960))
    *story, question = _SENTENCE.split(text.strip())
    if story and question.endswith("?") and not _leans(question):
        return " ".join([*story, aside, question])
    return f"{aside} {text}"


def names(text: str, rng: random.Random) -> str | None:
    """Other given names, each the same throughout; a name before another capital is a known person's."""
    known = (
        r"\b{0} [A-Z]|(?:St\.|Saint|Sir|King|Queen|Mount|Lake|[Tt]he) {0}\b"
        r"|\b{0}['\u2019]s (?:law|theorem|lemma|rule|principle|algorithm|paradox)"
    )
    words = set(_WORD.findall(text))
    there = {n for n in words & (_MEN | _WOMEN) if not re.search(known.format(n), text)}
    if any(_same_person(name, word) for name in there for word in words - {name}):
        return None
    new: dict[str, str] = {}
    for given in (_MEN, _WOMEN):
        free = sorted(name for name in given if name not in text)
        old = sorted(there & given)
        new |= zip(old, rng.sample(free, len(old)), strict=True)
    text = _outside(text, lambda part: _WORD.sub(lambda word: new.get(word[0], word[0]), part))
    return None if new.keys() & set(_WORD.findall(text)) else text  # one stays inside a formula


def _same_person(name: str, word: str) -> bool:
    """Whether a word may be a name in small letters, for short or with a slip: joe, Dan of Daniel, Marry."""
    if not word[0].isupper():
        return word == name.lower()
    short, long = sorted((name, word), key=len)
    near = SequenceMatcher(None, name, word).ratio() >= 0.8
    return len(short) > 2 and (long.startswith(short) or (near and name[0] == word[0]))


def units(text: str, rng: random.Random) -> str | None:
    """Units behind numbers, and prices, in words; not beside LaTeX, where $ and m may mean something else."""
    if _LATEX.search(text):
        return None

    def written(found: re.Match[str]) -> str:
        number, unit = found["number"], _UNITS[found["unit"]]
        many = "" if number == "1" or " per " in unit or unit in ("percent", "feet") else "s"
        unit = "foot" if number == "1" and unit == "feet" else unit
        return f"{number} {unit}{many}"

    text = _UNIT.sub(written, text)
    return _PRICE.sub(lambda p: f"{p['number']} dollar{'' if p['number'] == '1' else 's'}", text)


def typos(text: str, rng: random.Random) -> str | None:
    """Two letters swapped inside one of eight words of at least five small letters; no numeral among them."""
    long = list(filter(_can_swap, _WORD.findall(_outside(text, str, " "))))
    drawn, number = set(rng.sample(range(len(long)), -(-len(long) // 8))), iter(range(len(long)))

    def swap(found: re.Match[str]) -> str:
        word = found[0]
        if not _can_swap(word) or next(number) not in drawn:
            return word
        return rng.choice(_swapped(word))

    return _outside(text, lambda part: _WORD.sub(swap, part))


def _can_swap(word: str) -> bool:
    plain = len(word) >= 5 and word.islower() and word not in _NUMERALS
    return plain and bool(_swapped(word))


def _swapped(word: str) -> list[str]:
    """A word with two unlike letters inside it swapped, in each way that makes no other word."""
    ways = [i for i in range(1, len(word) - 2) if word[i] != word[i + 1]]
    made = [word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in ways]
    return [m for m in made if not {m, m.removesuffix("s")} & (_NUMERALS | _REAL)]


def shuffled(text: str, rng: random.Random) -> str | None:
    """The sentences before the question in another order, where each says by itself how things are."""
    *story, question = _SENTENCE.split(text.strip())
    if len(story) < 2 or not question.endswith("?") or any(s.endswith("?") for s in story):
        return None
    if any(_leans(s) or _ELIDED.search(s) or not _STATES.search(s) for s in story):
        return None
    for sentence in story:  # "the box" of one sentence is that of another
        others = " ".join(other for other in story if other is not sentence).lower()
        if any(noun in others for noun in re.findall(r"\bthe (\w{3,})", sentence.lower())):
            return None
    order = list(story)
    while order == story and len(set(story)) > 1:
        rng.shuffle(order)
    return " ".join([*order, question])


def preamble(text: str, rng: random.Random) -> str | None:
    """Some sentences without a number in front."""
    return f"{rng.choice(_PREAMBLES)} {text}"


def capitals(text: str, rng: random.Random) -> str | None:
    """Capital letters; not in variables, formulas such as NaCl, nor units."""

    def upper(found: re.Match[str]) -> str:
        word = found[0]
        formula = len(word) == 2 and word.lower() not in _SHORT
        return word if formula or word in _UNITS or not word[1:].islower() else word.upper()

    return _outside(
        text, lambda part: re.sub(r"[A-Za-zÀ-ÖØ-öø-ÿ]+(?:['\u2019][a-z]+)?", upper, part)
    )


PERTURBATIONS: Mapping[str, Perturb] = {
    function.__name__: function
    for function in (irrelevant, names, units, typos, shuffled, preamble, capitals)
}
# These change words, which an answer in words may be one of.
_OF_WORDS = frozenset(("names", "typos", "capitals"))


def perturbed(kind: str, problem: str, answer: str, key: str) -> str | None:
    """The variant of a problem, or None where there is none; chance comes of `key` (id and seed) alone."""
    if kind in _OF_WORDS and re.search(r"[A-Za-z]{2}", re.sub(r"\\[A-Za-z]+", "", answer)):
        return None
    body, *choices = _CHOICES.split(problem, maxsplit=1)
    if "\n" in body.strip() and kind in ("irrelevant", "shuffled"):
        return None
    if _ITS_OWN.search(body) and kind in (*_OF_WORDS, "shuffled"):
        return None
    shared = set(_WORD.findall(body)) & set(_WORD.findall("".join(choices)))
    if kind == "names" and shared & (_MEN | _WOMEN):
        return None  # the choices would still have the old ones
    found = PERTURBATIONS[kind](body, random.Random(f"{kind} {key}"))
    return None if found is None or found == body else "\n".join([found, *choices])


def _leans(sentence: str) -> bool:
    words = set(re.findall(r"[a-z]+", sentence.lower()))
    return bool(words & _LEANS) or any(word.endswith("ed") for word in words)


def _outside(text: str, change: Callable[[str], str], kept_as: str | None = None) -> str:
    """The text with what is neither a number nor LaTeX changed, and that left, or `kept_as`."""
    parts, at = [], 0
    for kept in (_FORMULA if _LATEX.search(text) else _NUMBER).finditer(text):
        parts += [change(text[at : kept.start()]), kept[0] if kept_as is None else kept_as]
        at = kept.end()
    return "".join([*parts, change(text[at:])])
