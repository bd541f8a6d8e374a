"""Which sampling fields an endpoint knows, learned from what it refuses at first.

Exercised by `pytest tests/unit/test_client.py`.
"""

import re
from collections.abc import Callable
from typing import Any

# Left out alone where the endpoint names them, those in front together where it names none.
_EXTENSIONS = ("top_k", "min_p", "repetition_penalty")
_NEUTRAL = (*_EXTENSIONS, "seed", "top_p", "presence_penalty", "frequency_penalty", "n")
_OPTIONAL = (*_NEUTRAL, "temperature")
_NOT_KNOWN = re.compile(
    r"(unknown|unrecogni[sz]ed|unexpected|unsupported|extra|additional|undefined|invalid)\W+"
    r"(\w+\W+){0,3}?(field|parameter|argument|propert|input|key|attribute)"
    r"|(field|parameter|argument|propert|input|key|attribute)\w*\W+(\S+\W+){0,6}?"
    r"(not|isn't|is un|are un)\W*(permitted|allowed|supported|recogni[sz]ed|known|expected)"
    r"|does not support|unknown name",
    re.IGNORECASE,
)
# What is said of values: a neutral one may be out of an endpoint's range, or not go with another field.
_NOT_TAKEN = re.compile(
    r"must|should|can ?not|can't|valid|range|between|at (least|most)|(less|greater) than|only",
    re.IGNORECASE,
)


class KnownFields:
    """Which fields one model's requests must leave out for the endpoint to accept them."""

    def __init__(self, model: str, on_left_out: Callable[[str, str], None]) -> None:
        """`on_left_out` gets the model and each field, once."""
        self.model, self.on_left_out = model, on_left_out
        self.settled = False  # a request was answered, so what is refused is refused for itself
        self.left_out: list[str] = []

    def of(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body as the endpoint knows it."""
        known = {name: value for name, value in body.items() if name not in self.left_out}
        extension = known.get("extra_body", {})
        known["extra_body"] = {n: v for n, v in extension.items() if n not in self.left_out}
        if "max_tokens" in self.left_out:
            known["max_completion_tokens"] = body["max_tokens"]
        return known

    def leave_out(self, body: dict[str, Any], said: str) -> bool:
        """Whether to ask again: the error `said` of `body` names a field that the endpoint does not take."""
        sent = {**body, **body["extra_body"]}
        if any(name in sent for name in self.left_out):
            return True  # learned since this request was sent
        if self.settled or not (fields := self._blamed(sent, said)):
            return False
        for name in fields:
            self.left_out.append(name)
            if name != "max_tokens":  # which goes by its other name
                self.on_left_out(self.model, name)
        return True

    def _blamed(self, sent: dict[str, Any], said: str) -> list[str]:
        if "max_tokens" in sent and "max_completion_tokens" in said:
            return ["max_tokens"]  # given by the other name
        unknown = _NOT_KNOWN.search(said)
        if not unknown and not _NOT_TAKEN.search(said):
            return []
        may = _OPTIONAL if unknown else _NEUTRAL
        named = [n for n in may if n in sent and re.search(rf"(?<![\w\\-]){n}(?![\w-])", said)]
        return named or [name for name in _EXTENSIONS if unknown and name in sent]
