"""Retries after an engine's failure: the batch is tried again, and the problem that caused it is found.

A killed process loses its state, so attempts are counted in an actor beside the driver
(`SamplingJournal`). Several batches share an engine, and its death fails all of them. Each is then tried with
the engine to itself, so that only the batch at fault fails again. A batch that failed twice is tried
one problem at a time. A problem that alone ended an engine twice is rejected, and the others go on.
Exercised by
`pytest tests/unit/test_guard.py tests/integration/test_faults.py`.
"""

import contextlib
import os
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lr_ray.config import Config
from lr_ray.engines.engine import Engine
from lr_ray.errors import StageError, named
from lr_ray.plugins import engines

Work = Callable[[Sequence[Any]], list[Any]]  # items to their results

_SHOWN = 300  # characters of an error
STARTS = 2  # of a batch, and of a problem alone
DEATHS_IN_A_ROW = 8  # of batches that failed before, while no other batch or problem is finished


class SamplingJournal:
    """Starts that have not finished, over all engines of a stage."""

    def __init__(self) -> None:
        self.starts: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self.deaths = 0
        self.engines: dict[str, dict[str, Any]] = {}  # what each last said of itself

    def in_vain(self, batch: str) -> bool:
        """Whether the batch was started and did not finish."""
        return self.starts[batch] > 0

    def start(self, batch: str) -> int:
        """Earlier starts of the batch. Raises StageError when engines die and nothing gets done."""
        earlier = self.starts[batch]
        self.starts[batch] += 1
        # A first or second start in vain may be a node that went away with all its engines.
        self.deaths += earlier >= STARTS
        if self.deaths > DEATHS_IN_A_ROW:
            reason = self.reasons.get(batch, "they were killed, or ran out of memory")
            raise StageError(f"{self.deaths} engines in a row died without a result: {reason}")
        return earlier

    def start_alone(self, item: str) -> str | None:
        """Why the problem is given up, if it is."""
        if self.starts[item] >= STARTS:
            reason = self.reasons.get(item, "killed, or out of memory")
            return f"the engine died {self.starts[item]} times on this problem alone: {reason}"
        self.starts[item] += 1
        return None

    def failed(self, name: str, reason: str) -> None:
        self.reasons[name] = reason

    def finish(self, name: str, by_engine: bool = True) -> None:
        """`by_engine`: an engine has come to its end, rather than been given up on."""
        self.starts.pop(name, None)
        if by_engine:
            self.deaths = 0

    def tell(self, engine: str, said: dict[str, Any]) -> None:
        """Adds to what an engine says of itself, with the time of it."""
        there = self.engines.setdefault(engine, {})
        there.update(said, at=time.monotonic())

    def told(self) -> list[dict[str, Any]]:
        """What each engine has said, `age` seconds ago."""
        now = time.monotonic()
        return [{**said, "age": now - said["at"]} for said in self.engines.values()]


class Gate:
    """Batches that share an engine, and those that need it for themselves, which go first."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.inside = self.alone = 0  # batches in the engine; those that want it or have it alone

    @contextlib.contextmanager
    def enter(self, alone: bool) -> Iterator[None]:
        with self.changed:
            self.alone += alone
            self.changed.wait_for(lambda: self.inside == 0 if alone else self.alone == 0)
            self.inside += 1
        try:
            yield
        finally:
            with self.changed:
                self.inside -= 1
                self.alone -= alone
                self.changed.notify_all()


class Guard:
    """One actor's way to try again without an end. Its batches run in threads."""

    def __init__(
        self,
        ask: Callable[..., Any],
        is_sound: Callable[[], bool],
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        """`ask(method, ...)` calls the journal; `is_sound()`: the engine has not failed."""
        self.ask, self.is_sound, self.end, self.gate = ask, is_sound, end, Gate()

    def run(self, batch: str, items: Sequence[Any], work: Work) -> list[Any]:
        """`work` on all items at once; where it fails for one, that one's place holds the reason.

        `work` raises ValueError for items that the engine does not take in. After anything else this
        process ends, and Ray starts its batches again in a new one.
        """
        refused = False
        if not self.ask("in_vain", batch):
            with self.gate.enter(alone=False):
                done = self._together(batch, items, work)
            if done is not None:
                return done
            refused = True
        with self.gate.enter(alone=True):
            done = None if refused else self._together(batch, items, work)
            if done is None:
                done = [self._alone(f"{batch}/{i}", item, work) for i, item in enumerate(items)]
                self.ask("finish", batch, False)
            return done

    def _together(self, batch: str, items: Sequence[Any], work: Work) -> list[Any] | None:
        """None: the batch is to be worked on one problem at a time."""
        if self.ask("start", batch) >= STARTS:
            return None
        try:
            done = work(items)
        except Exception as error:
            self._end_unless_refused(batch, error)
            return None
        self.ask("finish", batch)
        return done

    def _alone(self, name: str, item: Any, work: Work) -> Any:
        reason = self.ask("start_alone", name)
        if reason:
            return str(reason)
        try:
            result = work([item])[0]
        except Exception as error:
            self._end_unless_refused(name, error)
            result = named(error)[:_SHOWN]
        self.ask("finish", name)
        return result

    def _end_unless_refused(self, name: str, error: Exception) -> None:
        """An engine that raised in the middle of its work is not trusted with more."""
        if isinstance(error, ValueError) and self.is_sound():
            return
        traceback.print_exc()
        self.ask("failed", name, named(error)[:_SHOWN])
        self.end(1)


def start_guarded(
    role: str, model: str, config: Config, context: int, journal: Any
) -> tuple[Engine, Guard]:
    """An actor's engine, as `engine.Engine` says it is made, and its guard with the stage's journal."""
    import ray

    start = engines.get(config.sampling.engine, "sampling.engine")
    engine: Engine = start(role, model, config, context, journal)
    guard = Guard(
        lambda method, *arguments: ray.get(getattr(journal, method).remote(*arguments)),
        lambda: engine.healthy,
    )
    return engine, guard
