"""What the engines of a running stage are doing, from what each last told the journal.

Exercised by `pytest tests/unit/test_activity.py`.
"""

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lr_ray.console import rate
from lr_ray.runtime.memory import largest

# Gets a note, and the seconds left where they are known.
OnActivity = Callable[[str, float | None], None]

_LOOK_EVERY_S = 1.0
_ANSWER_WITHIN_S = 10.0
_WINDOW_S = 15.0  # that a rate is made of
_SHARE = 0.5  # of the time worked that time left is made of: prompts are read for some of it
_FIRST_S = 10.0  # of work before time left is told
_GONE_S = 60.0  # an engine that was at work and has said nothing for so long has died
Told = list[dict[str, Any]]
# By role: the `most` engines there were at once, and the most memory that one held.
Engines = dict[str, dict[str, int]]


@dataclass
class Seen:
    """What was seen of a stage's engines: how many and how large, and the seconds until one was at work."""

    engines: Engines = field(default_factory=dict)
    starting_s: float = 0.0


class Pace:
    """How fast a count has grown of late: in `_WINDOW_S`, or a larger `share` of the time it has grown."""

    def __init__(self, share: float = 0.0) -> None:
        self.share, self.began = share, math.inf
        self.seen: deque[tuple[float, float]] = deque()

    def add(self, count: float, now: float) -> None:
        if not self.seen and not count:
            return
        self.began = min(self.began, now)
        self.seen.append((now, count))
        since = now - max(_WINDOW_S, self.share * (now - self.began))
        while len(self.seen) > 2 and self.seen[1][0] <= since:
            self.seen.popleft()

    @property
    def a_second(self) -> float | None:
        """None: not known yet."""
        if len(self.seen) < 2:
            return None
        (start, before), (now, count) = self.seen[0], self.seen[-1]
        return max(0.0, count - before) / (now - start)


class Observer:
    """Makes a note of what successive looks at the engines show."""

    def __init__(
        self,
        problems: int,
        most_tokens: int,
        now: float | None = None,
        seen: Seen | None = None,
    ) -> None:
        """`problems` that the engines are to do, each of `most_tokens` generated ones at most.

        What is found is added to `seen`.
        """
        self.problems, self.most_tokens = problems, most_tokens
        self.seen = Seen() if seen is None else seen
        self.started = time.monotonic() if now is None else now
        self.working: float | None = None  # since
        self.tokens, self.decoded, self.scored = Pace(), Pace(_SHARE), Pace(_SHARE)

    def look(self, told: Told, now: float | None = None) -> tuple[str, float | None]:
        """A note for the progress line, and the seconds left once they can be told."""
        now = time.monotonic() if now is None else now
        self._count(told)
        first = "expert" if any(e["role"] == "expert" for e in told) else "amateur"
        decoded = _sums([e for e in told if e["role"] == first])
        scored = _sums([e for e in told if e["role"] == "amateur"])
        for pace in (self.tokens, self.decoded):
            pace.add(decoded["tokens"] + decoded["under_way"], now)
        self.scored.add(scored["finished"], now)
        starting = _starting(told)
        if not self.tokens.seen:
            return f"{starting or 'starting engines'}, {now - self.started:.0f} s", None
        if self.working is None:
            self.working = now
            begun = [e for e in told if e.get("tokens") or e.get("under_way")]
            worked = max(engine["age"] + engine.get("busy_s", 0.0) for engine in begun)
            self.seen.starting_s += max(0.0, now - self.started - worked)
        speed = self.tokens.a_second
        inside = decoded["inside"] + (scored["inside"] if first == "expert" else 0)
        parts = [f"{rate(speed)} tokens/s"] if speed else []
        parts += [f"{inside} in flight"] if inside else []
        parts += [starting] if starting else []
        left = None
        if now - self.working >= _FIRST_S:
            left = self._left(decoded, scored if first == "expert" else None)
        return ", ".join(parts), left

    def _count(self, told: Told) -> None:
        for role in {engine["role"] for engine in told}:
            ours = [engine for engine in told if engine["role"] == role]
            found = {"most": sum(engine["age"] < _GONE_S for engine in ours)}
            for seen in (found, *(engine.get("memory", {}) for engine in ours)):
                self.seen.engines[role] = largest(self.seen.engines.get(role, {}), seen)

    def _left(self, decoded: dict[str, int], scored: dict[str, int] | None) -> float | None:
        """Seconds until the slower pool is through, at its pace of late."""
        finished, speed = decoded["finished"], self.decoded.a_second
        if not finished or not speed or finished > self.problems:
            return None
        # Those that are finished so far are the short ones, so tokens of the others count too: the mean
        # of an exponential distribution of which some draws are not over.
        mean = (decoded["tokens"] + decoded["under_way"]) / finished
        mean = min(mean, self.most_tokens) if scored is not None else decoded["tokens"] / finished
        left = ((self.problems - finished) * mean - decoded["under_way"]) / speed
        if scored and scored["finished"] and self.scored.a_second:
            left = max(left, (self.problems - scored["finished"]) / self.scored.a_second)
        return max(left, 0.0)


def _sums(engines: Told) -> dict[str, int]:
    """Over all engines; those that are gone have nothing under way."""
    here = [e for e in engines if e["age"] < _GONE_S]
    sums = {name: sum(e.get(name, 0) for e in engines) for name in ("finished", "tokens")}
    return sums | {name: sum(e.get(name, 0) for e in here) for name in ("under_way", "inside")}


def _starting(told: Told) -> str:
    """How far the engines are whose role has none at work."""
    parts = []
    for role in ("expert", "amateur"):
        engines = [e for e in told if e["role"] == role]
        if not engines or any(e.get("inside") or e.get("finished") for e in engines):
            continue
        ready = [e for e in engines if e["state"] == "ready"]
        if ready:
            parts.append(f"{role} ready after {ready[0]['start_s']:.0f} s")
        else:
            parts.append(f"loading {role} ({_size(max(e['weights'] for e in engines))})")
    return ", ".join(parts)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


@contextlib.contextmanager
def watching(journal: Any, observer: Observer, on_activity: OnActivity) -> Iterator[None]:
    """Asks the journal every second, in a thread of its own."""
    import ray

    ended = threading.Event()

    def look() -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            found = observer.look(ray.get(journal.told.remote(), timeout=_ANSWER_WITHIN_S))
            if not ended.is_set():
                on_activity(*found)

    def watch() -> None:
        while not ended.wait(_LOOK_EVERY_S):
            look()

    thread = threading.Thread(target=watch, name="engines-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_LOOK_EVERY_S)
    if observer.working is None:  # a few problems are through between two looks
        look()
