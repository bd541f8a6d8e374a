"""What happens when an engine fails: the batch is tried again, and a problem that is to blame is found.

A killed process takes its knowledge along, so starts are noted in a small actor of the driver's
(`SamplingJournal`). A batch that was started twice in vain is worked on one problem at a time; a problem that
was started twice alone is given up, and the others go on. Exercised by
`pytest tests/unit/test_guard.py tests/integration/test_faults.py`.
"""

import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from lr_ray.errors import StageError

Work = Callable[[Sequence[Any]], list[Any]]  # items to their results

STARTS = 2  # of a batch, and of a problem alone
_WATCH_S, _RAISED_WITHIN_S = 0.5, 5.0
DEATHS_IN_A_ROW = 8  # of batches that failed before, while no other batch or problem is finished


class SamplingJournal:
    """Starts that have not finished, over all engines of a stage."""

    def __init__(self) -> None:
        self.starts: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self.deaths = 0

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


class Guard:
    """One actor's way to try again without an end."""

    def __init__(
        self,
        ask: Callable[..., Any],
        is_idle: Callable[[], bool],
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        """`ask(method, ...)` calls the journal; `is_idle()`: the engine has no request under way."""
        self.ask, self.is_idle, self.end = ask, is_idle, end

    def run(self, batch: str, items: Sequence[Any], work: Work) -> list[Any]:
        """`work` on all items at once; where it fails for one, that one's place holds the reason.

        `work` raises ValueError for items that the engine does not take in. After anything else this
        process ends, and Ray starts the batch again in a new one.
        """
        if self.ask("start", batch) < STARTS:
            try:
                done = work(items)
                self.ask("finish", batch)
                return done
            except Exception as error:
                self._end_unless_refused(batch, error)
        results = [self._alone(f"{batch}/{i}", item, work) for i, item in enumerate(items)]
        self.ask("finish", batch, False)
        return results

    def _alone(self, name: str, item: Any, work: Work) -> Any:
        reason = self.ask("start_alone", name)
        if reason:
            return str(reason)
        try:
            result = work([item])[0]
        except Exception as error:
            self._end_unless_refused(name, error)
            result = _line(error)
        self.ask("finish", name)
        return result

    def _end_unless_refused(self, name: str, error: Exception) -> None:
        """An engine that raised in the middle of its work is not trusted with more."""
        if isinstance(error, ValueError) and self.is_idle():
            return
        traceback.print_exc()
        self.ask("failed", name, _line(error))
        self.end(1)


def guard_of(engine: Any, journal: Any) -> Guard:
    """The guard of an actor's `vllm.LLM`, with the stage's journal actor."""
    import ray

    _end_with(engine)
    return Guard(
        lambda method, *arguments: ray.get(getattr(journal, method).remote(*arguments)),
        lambda: not engine.llm_engine.has_unfinished_requests(),
    )


def _end_with(engine: Any) -> None:
    """Ends this process when its engine's process has died.

    vLLM raises that where it sends to the engine, but waits for ever where it waits for an answer
    (`SyncMPClient.get_output` in 0.29). An engine in this process needs no watch.
    """
    resources = getattr(engine.llm_engine.engine_core, "resources", None)
    if resources is None:
        return

    def watch() -> None:
        while not resources.engine_dead:
            time.sleep(_WATCH_S)
        time.sleep(_RAISED_WITHIN_S)
        print("the engine's process has died", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, name="engine-watch", daemon=True).start()


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
