"""Lines of JSON as they are written: a key twice, NaN and what else is no JSON are refused.

Exercised by `pytest tests/unit/test_problems_rows.py tests/unit/grading/test_command.py`.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from lr_ray.errors import why_not_read

# What JSON, YAML or Python makes of \boxed, \frac, \times or \right where its backslash is not escaped.
EATEN = re.compile(
    r"[\a\x08](?=[a-z])|\f(?=rac|orall)|\v(?=ec\b|ert)|\t(?=imes|heta|riangle|frac|ext(bf)?\{)|\r(?=ight)"
)


class JsonError(ValueError):
    """One line: what is wrong with the text."""


def load(line: bytes) -> Any:
    """The value of a line in UTF-8. Raises JsonError."""
    try:
        text = line.decode("utf-8-sig")  # files put together may have a mark in the middle
        return json.loads(text, parse_constant=no_constant, object_pairs_hook=once)
    except UnicodeDecodeError as error:
        said = f"not UTF-8 at byte {error.start + 1} of the line; must be UTF-8"
    except json.JSONDecodeError as error:
        said = f"not JSON at character {error.pos + 1}: {error.msg}"
    except RecursionError:
        said = "not JSON: nested too deeply"
    except JsonError as error:
        said = str(error)
    except ValueError as error:  # a long number, of which it adds how Python would take it
        said = f"not JSON: {why_not_read(error).split(';')[0]}"
    raise JsonError(said)


def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of an object, for json's object_pairs_hook. Raises JsonError for a name twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise JsonError(f"{name[:60]!r} is there twice; must be there once")
        found[name] = value
    return found


def no_constant(name: str) -> Any:
    raise JsonError(f"not JSON: {name} is not a JSON number")
