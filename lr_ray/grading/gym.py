"""reasoning-gym's procedural generators and their own verifiers. Importing this takes seconds.

A generator is named `NAME?param=value&...` with the parameters of its config. The package is an extra:
`pip install '.[domains]'`.
pytest tests/unit/test_gym.py
"""

import contextlib
import dataclasses
import difflib
import functools
import re
from collections.abc import Mapping
from datetime import date, time
from typing import Any

from reasoning_gym import create_dataset
from reasoning_gym.factory import DATASETS

from lr_ray.errors import one_line
from lr_ray.grading.graders import Verdict
from lr_ray.grading.reading import extract_answer
from lr_ray.yaml_text import YamlError, load

CHUNK = 100  # problems of one generator; a generator adds a problem's number to its seed
_IN_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")


class Verifier:
    """Judges by the verifier of the generator that made a row; right is a score of 1.

    Reads as `exact` does. `metadata` has generator, seed and index, of which the problem is made anew.
    """

    def read(self, completion: str, cut: bool, metadata: Mapping[str, Any]) -> str | None:
        answer = extract_answer(completion, "exact", cut)
        return None if answer is None else _IN_TEXT.sub(r"\1", answer).strip()

    def judge(self, expected: str, extracted: str, metadata: Mapping[str, Any]) -> Verdict:
        generator, seed, index = (metadata[name] for name in ("generator", "seed", "index"))
        entry, verifier = made(generator, seed, index), _generator(generator, seed)
        bare = extracted.strip(" .*\"'\u201c\u201d")  # "Yes".
        score = max(verifier.score_answer(said, entry) for said in (extracted, bare))
        return Verdict(score >= 1, f"the verifier gives {score:.2g}")


def asked(parameter: str) -> tuple[str, dict[str, Any]]:
    """A generator's name and parameters, checked. Raises ValueError."""
    name, _, query = parameter.partition("?")
    if name not in DATASETS:
        raise ValueError(f"no generator {name!r}{_closest(name, DATASETS)}")
    fields = {field.name: field for field in dataclasses.fields(DATASETS[name][1])}
    given: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        option, mark, text = part.partition("=")
        if option == "seed" or option not in fields:
            known = [known for known in fields if known != "seed"]
            raise ValueError(f"{name} has no parameter {option!r}{_closest(option, known)}")
        if option in given:
            raise ValueError(f"{name}: {option} is there twice; give it once")
        given[option] = _value(part, text if mark else "", fields[option].default)
    return name, given


def _value(part: str, text: str, usual: Any) -> Any:
    """The value of a parameter whose default is `usual`. Raises ValueError naming `part`."""
    try:
        value = load(text)
    except YamlError:
        raise ValueError(f"{part}: must be a YAML value") from None
    likely = (int, float) if type(usual) is float else type(usual)
    if isinstance(usual, date | time) and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = type(usual).fromisoformat(value)
    if type(usual) in (bool, int, float, str, date, time) and (
        not isinstance(value, likely) or isinstance(value, bool) != isinstance(usual, bool)
    ):
        shown = usual if isinstance(usual, date | time) else repr(usual)
        raise ValueError(f"{part}: must be of the kind of its default, {shown}")
    return value


def _closest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(known))}"


@functools.lru_cache(maxsize=16)
def _generator(parameter: str, seed: int) -> Any:
    name, given = asked(parameter)
    try:
        return create_dataset(name, **given | {"seed": seed, "size": CHUNK})
    except Exception as error:  # its checks are assertions, most of them
        raise ValueError(f"{parameter}: {one_line(str(error) or type(error).__name__)}") from None


def made(parameter: str, seed: int, index: int) -> dict[str, Any]:
    """A problem: question, answer (None where any may be right) and metadata. Raises ValueError."""
    generator = _generator(parameter, seed)
    try:
        return dict(generator[index])
    except Exception as error:
        raise ValueError(f"{parameter}: {one_line(str(error) or type(error).__name__)}") from None
