"""Grading in processes of its own: no answer can hang the run, end it, or take its memory.

pytest tests/unit/grading/test_pool.py
"""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lr_ray.errors import StageError
from lr_ray.grading.graders import Grader, Verdict
from lr_ray.grading.judging import judge_by_algebra, judge_exactly
from lr_ray.grading.reading import extract_answer

if TYPE_CHECKING:
    from pebble import ProcessFuture, ProcessPool

Case = tuple[str, str | None, str]  # expected, extracted, kind

_MEMORY_BYTES = 1 << 30  # of address space that a worker may take on top of what it starts with
_PR_SET_PDEATHSIG = 1
_WAITING = 6  # seconds by the clock for each of computing: other work may hold the cores


class Item(NamedTuple):
    """A completion to grade, None where there is none; `metadata` is what else its row says."""

    expected: str
    completion: str | None
    cut: bool = False
    metadata: Mapping[str, Any] | None = None


class Graded(NamedTuple):
    """The answer that was read, or None, and the verdict on it."""

    extracted: str | None
    verdict: Verdict


class Graders:
    """Judges answers; processes start with the first pair that takes algebra, and end with the block.

    A context manager. `workers`: at most 4 where None is given. `time_limit_s`: CPU seconds of one pair, so
    that no verdict depends on what else the machine does.
    """

    def __init__(self, workers: int | None = None, time_limit_s: float = 5.0) -> None:
        self._workers = workers or min(4, os.cpu_count() or 1)
        self._time_limit_s = time_limit_s
        self._pool: ProcessPool | None = None
        self._modules: list[str] = []  # of graders: workers import them before a pair's time begins

    def __enter__(self) -> "Graders":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def started(self) -> bool:
        """Whether worker processes have been started."""
        return self._pool is not None

    def judge_all(
        self, cases: Sequence[Case], on_done: Callable[[], None] = lambda: None
    ) -> list[Verdict]:
        """The verdict on each case, in order; `on_done` is called after each.

        What takes no algebra is decided here, and every pair once. A pair that takes longer than the
        limit is wrong by "time limit", one that takes too much memory, or kills its process, by "too
        large". Raises StageError when no process can be started, ValueError for an unknown kind.
        """
        verdicts: dict[Case, Verdict] = {}
        pending: dict[Case, ProcessFuture[Verdict]] = {}
        for case in dict.fromkeys(cases):
            verdict = judge_exactly(*case)
            if verdict is None:
                pending[case] = self._submit(judge_by_algebra, *case[:2], None)
            else:
                verdicts[case] = verdict
        judged = []
        for case in cases:
            if case not in verdicts:
                verdicts[case] = self._result(case, pending[case])
            judged.append(verdicts[case])
            on_done()
        return judged

    def grade_all(
        self,
        grader: str | Grader,
        items: Sequence[Item],
        on_done: Callable[[], None] = lambda: None,
    ) -> list[Graded]:
        """Reads and judges each completion by a built-in grader's name, or by a grader.

        Another's own failure is a wrong answer by "failed: ...". Raises as `judge_all`.
        """
        if isinstance(grader, str):
            read = [
                extract_answer(item.completion, grader, item.cut) if item.completion else None
                for item in items
            ]
            cases = [(i.expected, said, grader) for i, said in zip(items, read, strict=True)]
            return list(map(Graded, read, self.judge_all(cases, on_done)))
        if (module := type(grader).__module__) not in self._modules:
            self._stop()
            self._modules.append(module)
        futures = [
            self._submit(_grade, grader, item) if item.completion else None for item in items
        ]
        found = []
        for item, future in zip(items, futures, strict=True):
            graded: Graded | Verdict = Verdict(False, "no answer")
            if future is not None:
                graded = self._result((item.expected, item.completion, ""), future)
            found.append(graded if isinstance(graded, Graded) else Graded(None, graded))
            on_done()
        return found

    def _submit(self, work: Callable[..., Any], *arguments: Any) -> "ProcessFuture[Any]":
        if self._pool is None:
            self._pool = _start_pool(self._workers, self._modules)
        limit = self._time_limit_s
        return self._pool.schedule(_limited, (limit, work, *arguments), timeout=_WAITING * limit)

    def _result(self, case: Case, future: "ProcessFuture[Any]") -> Any:
        from concurrent.futures.process import BrokenProcessPool

        from pebble import ProcessExpired

        try:
            return future.result()
        except TimeoutError:
            return Verdict(False, "time limit")
        except ProcessExpired as error:
            spent = error.exitcode == -signal.SIGPROF
            return Verdict(False, "time limit" if spent else "too large")
        except BrokenProcessPool as error:
            self._stop()
            raise StageError(
                f"grading: a worker process ended before it could judge {case[0]!r:.80} against "
                f"{case[1]!r:.80} ({error}); is there memory for {self._workers} more processes?"
            ) from error

    def _stop(self) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool.stop()
            pool.join()


def _start_pool(workers: int, modules: Sequence[str]) -> "ProcessPool":
    """A pool whose workers a server process forks, so that each starts with sympy imported.

    The server is started clean: this process has threads and sockets, which no fork may copy. It ends
    with this process.
    """
    import multiprocessing
    from multiprocessing import forkserver

    from pebble import ProcessPool

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lr_ray.grading.algebra"])
    # Ctrl-C reaches the whole process group; the server and its forks leave it to this process.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return ProcessPool(workers, initializer=_prepare_worker, initargs=[modules], context=context)


def _prepare_worker(modules: Sequence[str]) -> None:
    """Bounds the worker's memory, and has it die at once when asked to, or with the run."""
    import ctypes
    import importlib
    import resource
    from multiprocessing import forkserver

    import lr_ray.grading.algebra  # noqa: F401  its import is not part of the first pair's time

    for module in modules:
        importlib.import_module(module)

    # Pebble's handler waits for a long multiplication.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with open("/proc/self/statm") as statm:
        started_bytes = int(statm.read().split()[0]) * resource.getpagesize()
    limit = started_bytes + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The server ends when nobody holds this pipe, which should be the run alone, not its workers.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]


def _limited(time_limit_s: float, work: Callable[..., Any], *arguments: Any) -> Any:
    """Does the work; a signal ends this process after so many CPU seconds, whatever it is at."""
    signal.setitimer(signal.ITIMER_PROF, time_limit_s)
    try:
        return work(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _grade(grader: Grader, item: Item) -> Graded:
    """What a grader that is not built in says."""
    assert item.completion is not None
    metadata = dict(item.metadata or {})
    try:
        extracted = grader.read(item.completion, item.cut, metadata)
        if extracted is None:
            return Graded(None, Verdict(False, "no answer"))
        verdict = grader.judge(item.expected, extracted, metadata)
    except MemoryError:
        return Graded(None, Verdict(False, "too large"))
    except Exception as error:  # whatever a user's own code raises
        return Graded(None, Verdict(False, f"failed: {type(error).__name__}: {error}"[:200]))
    if isinstance(verdict, bool):
        verdict = Verdict(verdict, "right" if verdict else "different")
    return Graded(extracted, Verdict(*verdict))
