"""progress.json: when it is written, and what it says of how a job ended."""

import io
import json
import os
import signal
import threading
import uuid

import pytest
from rich.console import Console

from lr_ray import console
from lr_ray.console import StageProgress
from lr_ray.errors import StageError, UserError
from lr_ray.run.store import Run
from lr_ray.runtime import interrupts, progress
from lr_ray.runtime.progress import FILE, recorded


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(str(tmp_path / "run"))


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    monkeypatch.setattr(progress, "time", clock)
    return clock


def stage(name="sampling", total=500, unit="problems") -> StageProgress:
    return StageProgress(Console(file=io.StringIO()), name, total, unit)


def there(run: Run, *names: str):
    record = run.read_json(FILE)
    return tuple(record.get(name) for name in names)


def test_the_record_says_what_the_terminal_says(run, clock):
    with recorded(run), stage() as shown:
        shown.update(100)
        clock.now += 10
        shown.update(150, "9/100 steps kept")
        assert there(run, "stage", "done", "total", "unit", "note") == (
            "sampling", 150, 500, "problems", "9/100 steps kept"
        )  # fmt: skip
        assert there(run, "rate", "seconds_left") == (5.0, 70.0)
        assert there(run, "run", "pid", "state") == (run.location, os.getpid(), "running")
        clock.now += 2
        shown.show("900 tokens/s", 62.4)
        assert there(run, "note", "seconds_left") == ("9/100 steps kept, 900 tokens/s", 62.4)


def test_a_stages_start_and_end_are_written_at_once_and_the_rest_now_and_then(run, clock):
    with recorded(run):
        with stage() as shown:
            assert there(run, "stage", "done") == ("sampling", 0)
            shown.update(1)
            clock.now += 1.9
            shown.update(2)
            assert there(run, "done") == (0,)
            clock.now += 0.1
            shown.update(3)
            shown.update(4)
            assert there(run, "done") == (3,)
        assert there(run, "done") == (4,)
        with stage("training", 80, "steps"):
            assert there(run, "stage", "done", "total") == ("training", 0, 80)


def test_an_object_store_is_asked_less_often(clock):
    run = Run(f"memory://{uuid.uuid4().hex}")
    with recorded(run), stage() as shown:
        clock.now += 9.9
        shown.update(2)
        assert there(run, "done") == (0,)
        clock.now += 0.1
        shown.update(3)
        assert there(run, "done") == (3,)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (None, ("finished", None)),
        (StageError("lora.rank: too\nlarge"), ("failed", "lora.rank: too\\nlarge")),
        (UserError("wrong"), ("failed", "wrong")),
        (OSError(28, "No space left"), ("failed", "OSError: [Errno 28] No space left")),
        (KeyboardInterrupt(), ("interrupted", None)),
        (SystemExit(143), ("interrupted", None)),
    ],
)
def test_the_end_is_told(run, raised, said):
    def job() -> None:
        with recorded(run), stage() as shown:
            shown.update(7)
            if raised:
                raise raised

    if raised is None:
        job()
    else:
        with pytest.raises(type(raised)):
            job()
    assert there(run, "state", "error") == said
    assert there(run, "stage", "done") == ("sampling", 7)


def test_a_stage_within_a_run_within_a_comparison_is_told_in_both(run):
    cell = run.child("variants/a-0")
    with recorded(run) as record:
        record.tell(variants={"done": 0, "total": 1})
        with recorded(cell), stage() as shown:
            shown.update(7)
        assert there(cell, "state", "done", "variants") == ("finished", 7, None)
        assert there(run, "state", "done", "variants") == ("running", 7, {"done": 0, "total": 1})
    with stage() as shown:
        shown.update(9)
    assert there(run, "state", "done") == ("finished", 7)


def test_any_thread_may_tell(run):
    with recorded(run), stage(total=8) as shown:
        threads = [threading.Thread(target=shown.update, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        shown.update(8)
    record = json.loads(run.fs.cat_file(run.path(FILE)))
    assert (record["done"], record["state"]) == (8, "finished")
    assert os.listdir(run.root) == [FILE]


def test_an_interruption_that_python_has_dropped_is_raised_with_the_next_update(run, monkeypatch):
    """As of a signal that comes within a callback of the garbage collector."""

    def work() -> None:
        with recorded(run), stage(total=8) as shown:
            shown.update(1)
            monkeypatch.setattr(interrupts, "received", signal.SIGINT)
            other = threading.Thread(target=shown.update, args=(2,))
            other.start()
            other.join()
            assert shown.done == 2  # as it is not that thread's to hear of
            shown.update(3)
            pytest.fail("the work went on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert there(run, "state", "done") == ("interrupted", 3)


def test_a_record_that_cannot_be_written_stops_nothing(run):
    run.create()
    run.root += "/missing\0"
    with recorded(run), stage() as shown:
        shown.update(7)
    assert shown.done == 7
