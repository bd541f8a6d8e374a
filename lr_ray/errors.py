"""The exceptions that users are meant to see: one line each, what is wrong and what would be right."""

import errno
import re
from collections.abc import Sequence

GIT_LFS = b"version https://git-lfs.github.com"  # how a pointer begins
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Of SQLite and of Ray's object store, both about temporary files, and of safetensors.
_SAID_FULL = ("disk is full", "No space left on device")
IS_POINTER = "is a pointer of git-lfs, not the file itself; run git lfs pull there"


def one_line(text: str) -> str:
    """The text with what ends a line, or cannot be shown, as Python escapes it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def counted(number: int, noun: str) -> str:
    """1 batch, 2 batches, 3 trajectories."""
    return f"{number} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """batches, trajectories, optimizer steps."""
    return re.sub("y$", "ie", noun) + ("es" if noun.endswith("ch") else "s")


def series(words: Sequence[str]) -> str:
    """As a sentence lists them: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def reason(error: BaseException) -> str:
    """The first line of what an error says, else its type."""
    return _first_line(error) or type(error).__name__


def _first_line(error: BaseException) -> str:
    """With the last one, where it but announces others."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    announces = len(lines) > 1 and lines[0].endswith(":")
    return f"{lines[0]} {lines[-1]}" if announces else "".join(lines[:1])


def why_not_read(error: BaseException) -> str:
    """What any file system's error says, without the file's name, on one line."""
    return one_line(
        str(getattr(error, "strerror", None) or reason(error)).splitlines()[0].rstrip(".")
    )


def named(error: BaseException) -> str:
    """Its type, and the first line of what it says."""
    return f"{type(error).__name__}: {_first_line(error)}"


def is_full_disk(error: BaseException) -> bool:
    """Whether it, or an error that it was made of, says that a disk has no room."""
    cause: BaseException | None = error
    while cause is not None:
        if (isinstance(cause, OSError) and cause.errno in _FULL) or any(
            said in str(cause) for said in _SAID_FULL
        ):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


class _LineError(Exception):
    """What it says is one line, whatever names and values stand in it."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class UserError(_LineError):
    """Bad input, found before anything expensive started. Jobs print its one line and exit 2."""


class StageError(_LineError):
    """A stage failed after it had started. Jobs print its one line and exit 1."""
