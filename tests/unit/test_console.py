"""Progress lines where there is no terminal."""

import io
import time

import pytest
from rich.console import Console

from lr_ray import console
from lr_ray.console import StageProgress, fetching, rate


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets; it starts at 100."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


@pytest.fixture
def out():
    return io.StringIO()


@pytest.fixture
def progress(clock, out):
    terminal = Console(file=out, highlight=False, soft_wrap=True)
    with StageProgress(terminal, "sampling", 500, "problems") as progress:
        yield progress


def lines(out):
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("a_second", "text"), [(0.2666, "0.267"), (3, "3"), (45.61, "45.6"), (1234.5, "1234")]
)
def test_rates_keep_three_digits(a_second, text):
    assert rate(a_second) == text


def test_what_was_done_before_does_not_count_as_pace(progress, clock, out):
    progress.update(400)
    clock.now += 10
    progress.update(410)
    assert lines(out) == ["sampling   410/500 problems  0:01:30 left"]


def test_nothing_is_said_of_the_time_left_at_first(progress, clock, out):
    progress.update(0)
    clock.now += 4.9
    progress.update(64)
    clock.now += 0.1
    progress.show("", None)
    assert lines(out) == ["sampling   64/500 problems"]


def test_few_of_many_tell_no_time_left(progress, clock, out):
    progress.update(0)
    clock.now += 10  # in which all of a first wave were begun
    progress.update(4)
    clock.now += 6
    progress.update(5)
    assert lines(out) == [
        "sampling   4/500 problems", "sampling   5/500 problems  0:26:24 left"
    ]  # fmt: skip


def test_what_is_under_way_is_shown_before_anything_is_done(progress, clock, out):
    progress.update(0)
    for _ in range(31):
        progress.show("loading expert (0.3 GB)", None)
        clock.now += 1
    assert lines(out) == ["sampling   0/500 problems  loading expert (0.3 GB)"] * 2
    progress.update(64, "9/100 steps kept")
    progress.show("900 tokens/s, 64 in flight", 62.4)
    clock.now += 5
    progress.update(128, "9/100 steps kept")
    assert lines(out)[2] == (
        "sampling   128/500 problems  9/100 steps kept  900 tokens/s, 64 in flight  0:01:02 left"
    )


def test_what_is_fetched_is_told_while_it_takes_long(tmp_path, capsys):
    (tmp_path / "before").write_bytes(bytes(10))
    with fetching("org/model", tmp_path):
        pass
    assert capsys.readouterr().out == ""
    said = ""
    with fetching("org/model", tmp_path, every_s=0.02):
        with open(tmp_path / "blob.incomplete", "wb") as blob:
            blob.truncate(1_500_000_000)  # takes no room
        deadline = time.monotonic() + 10
        while "1.5 GB" not in said:
            assert time.monotonic() < deadline
            time.sleep(0.01)
            said += capsys.readouterr().out
    assert "fetching   org/model  1.5 GB, 0 s" in said
