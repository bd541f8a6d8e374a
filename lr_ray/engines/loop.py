"""One vLLM engine for many threads: requests enter as others leave, those of the oldest batch first.

vLLM's `LLM.generate` drains the engine before it returns, so that a batch's longest trajectories run
almost alone. Here one thread builds the engine, adds requests and steps; the threads that have batches
wait for their own results. Exercised by `pytest tests/unit/test_loop.py tests/integration/test_sampling.py`.
"""

import heapq
import itertools
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lr_ray.runtime import memory

REPORT_EVERY_S = 1.0


class Stepper(Protocol):
    """What the loop asks of what it steps."""

    room: int  # sequences that it runs at once

    def add(self, name: str, token_ids: list[int], params: Any) -> None:
        """Takes a request in. Raises ValueError when it is none that the engine can do."""

    def step(self) -> list[Any]:
        """One forward; outputs (`request_id`, `outputs`) of the requests that it has finished."""

    def abort(self, names: list[str]) -> None: ...

    def tokens_under_way(self) -> int:
        """Tokens generated so far by the requests inside."""


@dataclass
class Activity:
    """What an engine has done and holds."""

    finished: int = 0  # problems
    tokens: int = 0  # of finished problems: those generated, or by an amateur read
    under_way: int = 0  # tokens generated of those inside
    inside: int = 0  # requests
    waiting: int = 0
    busy_s: float = 0.0
    filled_s: float = 0.0  # seconds by the share of the engine's room that was taken


class _Call(Future[list[Any]]):
    """What one `run` waits for."""

    def __init__(self, count: int, counted: bool) -> None:
        super().__init__()
        self.results: list[Any] = [None] * count
        self.missing, self.counted = count, counted


class _Request(NamedTuple):
    order: int
    number: int
    place: int
    call: _Call
    token_ids: list[int]
    params: Any

    @property
    def sequences(self) -> int:
        return getattr(self.params, "n", 1)


@dataclass
class _State:
    """What the thread and its callers share."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: list[_Request] = field(default_factory=list)  # a heap
    closed: bool = False
    failure: Exception | None = None
    ready: threading.Event = field(default_factory=threading.Event)
    engine: Any = None


class EngineLoop:
    """The callers' side. The thread ends, and lets go of its engine, once this is collected."""

    def __init__(
        self,
        start: Callable[[], Stepper],
        report: Callable[[Activity], Any] = lambda activity: None,
    ) -> None:
        """`start` builds the engine in the thread that will step it; `report` is called there."""
        self._state, self._numbers, self._mine = _State(), itertools.count(), threading.local()
        arguments = (self._state, start, report)
        threading.Thread(target=_serve, args=arguments, name="engine", daemon=True).start()
        self._state.ready.wait()
        if self._state.failure:
            raise self._state.failure
        self.engine: Any = self._state.engine
        weakref.finalize(self, _close, self._state)

    @property
    def is_sound(self) -> bool:
        """Whether the engine has not failed."""
        return self._state.failure is None

    def rank(self, order: int) -> None:
        """Requests of the calling thread go in before those of a higher order."""
        self._mine.order = order

    def run(
        self, prompts: Sequence[list[int]], params: Sequence[Any], counted: bool = True
    ) -> list[Any]:
        """The engine's outputs of the prompts (token ids), in their order.

        `counted`: each is a problem's, in what is reported. Raises the engine's ValueError when it
        does not take a request in, and whatever ended the engine.
        """
        if not prompts:
            return []
        call, order = _Call(len(prompts), counted), getattr(self._mine, "order", 0)
        with self._state.changed:
            if self._state.failure:
                raise self._state.failure
            for place, (token_ids, param) in enumerate(zip(prompts, params, strict=True)):
                number = next(self._numbers)
                request = _Request(order, number, place, call, token_ids, param)
                heapq.heappush(self._state.waiting, request)
            self._state.changed.notify()
        return call.result()


def start_loop(role: str, model: str, journal: Any, start: Callable[[], Stepper]) -> EngineLoop:
    """The loop of an actor's engine, which `start` builds; the journal is told how it goes."""
    name = f"{role} {uuid.uuid4().hex}"

    def tell(**said: Any) -> None:
        if journal is not None:
            journal.tell.remote(name, said)

    weights = sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))
    tell(role=role, state="loading", weights=weights)
    began = time.monotonic()
    loop = EngineLoop(start, lambda activity: tell(**asdict(activity), memory=memory.peak()))
    tell(state="ready", start_s=time.monotonic() - began)
    return loop


def _close(state: _State) -> None:
    with state.changed:
        state.closed, state.engine = True, None
        state.changed.notify()


def _serve(state: _State, start: Callable[[], Stepper], report: Callable[[Activity], Any]) -> None:
    try:
        state.engine = start()
    except BaseException as error:
        state.failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
        return
    finally:
        state.ready.set()
    turn = _Turn(state, state.engine, report)
    try:
        while turn.admit():
            turn.step()
    except Exception as error:
        turn.fail(error)


class _Turn:
    """The thread's side."""

    def __init__(self, state: _State, engine: Stepper, report: Callable[[Activity], Any]) -> None:
        self.state, self.engine, self.report = state, engine, report
        self.inside: dict[str, _Request] = {}
        self.sequences = 0
        # A few wait inside, where the next step finds them: a step may be planned ahead of results.
        self.room = engine.room + engine.room // 8
        self.activity, self.reported, self.last = Activity(), 0.0, time.monotonic()

    def admit(self) -> bool:
        """Takes in what there is room for, and waits while there is nothing. False: it is closed."""
        state = self.state
        with state.changed:
            if not self.inside and not state.waiting:
                self._tell()
                state.changed.wait_for(lambda: state.waiting or state.closed)
                self.last = time.monotonic()
            if state.closed:
                return False
            entering: list[_Request] = []
            room = self.room - self.sequences
            while state.waiting and (room > 0 or not (self.inside or entering)):
                entering.append(heapq.heappop(state.waiting))
                room -= entering[-1].sequences
        for request in entering:
            self._add(request)
        return True

    def step(self) -> None:
        if not self.inside:
            return
        taken = min(1.0, self.sequences / self.engine.room)
        outputs = self.engine.step()
        now = time.monotonic()
        self.activity.busy_s += now - self.last
        self.activity.filled_s += taken * (now - self.last)
        self.last = now
        for output in outputs:
            request = self._remove(output.request_id)
            call = request.call
            if call.counted:
                self.activity.finished += 1
                self.activity.tokens += _tokens(request, output)
            call.results[request.place] = output
            call.missing -= 1
            if not call.missing:
                call.set_result(call.results)
        if self.last - self.reported >= REPORT_EVERY_S:
            self._tell()

    def fail(self, error: Exception) -> None:
        """Nothing more is done: everybody who waits gets the error."""
        with self.state.changed:
            self.state.failure = error
            for request in (*self.inside.values(), *self.state.waiting):
                if not request.call.done():
                    request.call.set_exception(error)

    def _add(self, request: _Request) -> None:
        if request.call.done():  # it has failed
            return
        try:
            self.engine.add(str(request.number), request.token_ids, request.params)
        except Exception as error:
            others = [n for n, r in self.inside.items() if r.call is request.call]
            self.engine.abort([str(request.number), *others])
            for name in others:
                self._remove(name)
            request.call.set_exception(error)
            return
        self.inside[str(request.number)] = request
        self.sequences += request.sequences

    def _remove(self, name: str) -> _Request:
        request = self.inside.pop(name)
        self.sequences -= request.sequences
        return request

    def _tell(self) -> None:
        self.reported = self.last
        self.activity.under_way = self.engine.tokens_under_way()
        self.activity.inside = len(self.inside)
        self.activity.waiting = len(self.state.waiting)
        self.report(self.activity)


def _tokens(request: _Request, output: Any) -> int:
    if isinstance(output.outputs, list):
        return sum(len(sample.token_ids) for sample in output.outputs)
    return len(request.token_ids)
