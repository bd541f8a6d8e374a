"""What is said of engines at work, and of the time left."""

import subprocess
import sys

import pytest

from lr_ray.engines.guard import SamplingJournal
from lr_ray.sampling.activity import Observer, Seen


def engine(role, **said):
    return {"role": role, "age": 0.5, "weights": 270_000_000, **said}


def at_work(role, finished, tokens, under_way=0, inside=0):
    counts = {"finished": finished, "tokens": tokens, "under_way": under_way, "inside": inside}
    return engine(role, state="ready", start_s=14.2, **counts)


def test_starting_engines_are_told_apart():
    observer = Observer(problems=100, most_tokens=128, now=0)
    assert observer.look([], now=4) == ("starting engines, 4 s", None)
    loading = [
        engine("expert", state="loading"),
        engine("amateur", state="loading") | {"weights": 3_400_000},
    ]
    note, left = observer.look(loading, now=9)
    assert note == "loading expert (0.3 GB), loading amateur (3 MB), 9 s"
    assert left is None
    ready = [engine("expert", state="ready", start_s=14.2, inside=0), loading[1]]
    note = "expert ready after 14 s, loading amateur (3 MB), 15 s"
    assert observer.look(ready, now=15)[0] == note
    decoding = [at_work("expert", 0, 0, under_way=50, inside=64), loading[1]]
    assert observer.look(decoding, now=16)[0] == "64 in flight, loading amateur (3 MB)"
    decoding = [at_work("expert", 0, 0, under_way=114, inside=64), loading[1]]
    note = "64 tokens/s, 64 in flight, loading amateur (3 MB)"
    assert observer.look(decoding, now=17)[0] == note


def test_time_left_is_that_of_the_tokens_that_are_missing():
    observer = Observer(problems=100, most_tokens=128, now=0)
    observer.look([at_work("expert", 0, 0, under_way=1)], now=10)
    early = [at_work("expert", 5, 500, under_way=300, inside=20)]
    assert observer.look(early, now=15)[1] is None  # too early to tell
    later = [at_work("expert", 20, 2001, under_way=400, inside=20)]
    note, left = observer.look(later, now=22)
    assert note == "200 tokens/s, 20 in flight"
    mean = 2401 / 20  # of all tokens so far to a problem that is finished
    assert left == pytest.approx((80 * mean - 400) / 200)


def test_time_left_follows_no_phase_of_the_engines():
    """Prompts are read for as long as tokens come, at 10 and 190 a second: 100 on the whole."""
    observer, tokens = Observer(problems=1000, most_tokens=100, now=0), 1
    seen = []
    for now in range(10, 250):
        problems, under_way = divmod(tokens, 100)
        told = [at_work("expert", problems, 100 * problems, under_way, inside=20)]
        note, left = observer.look(told, now=now)
        if now > 110:
            seen.append((float(note.split()[0]), left, (100_000 - tokens) / 100))
        tokens += 190 if now % 40 < 20 else 10
    assert {speed for speed, *_ in seen} >= {10, 190}  # which the note tells
    assert all(left == pytest.approx(expected, rel=0.35) for _, left, expected in seen)


def test_no_problem_is_expected_to_take_more_tokens_than_it_may():
    observer = Observer(problems=100, most_tokens=128, now=0)
    observer.look([at_work("expert", 0, 0, under_way=1)], now=10)
    left = observer.look([at_work("expert", 1, 30, under_way=5971, inside=64)], now=40)[1]
    assert left == pytest.approx((99 * 128 - 5971) / 200)


def test_an_amateur_that_falls_behind_sets_the_time_left():
    observer = Observer(problems=100, most_tokens=128, now=0)
    observer.look([at_work("expert", 0, 0, 1), at_work("amateur", 0, 0)], now=10)
    observer.look([at_work("expert", 40, 4001), at_work("amateur", 2, 400, inside=5)], now=20)
    told = [at_work("expert", 90, 9001), at_work("amateur", 12, 2400, inside=5)]
    assert observer.look(told, now=30)[1] == pytest.approx(88 / 1)


def test_engines_are_counted_with_the_most_memory_that_one_held():
    seen = Seen()
    observer = Observer(problems=100, most_tokens=128, now=0, seen=seen)
    observer.look([engine("expert", state="loading"), engine("expert", state="loading")], now=1)
    first = at_work("expert", 1, 100) | {"memory": {"host_bytes": 7, "gpu_bytes": 3}}
    second = at_work("expert", 1, 100) | {"memory": {"host_bytes": 5, "gpu_bytes": 4}}
    other = at_work("amateur", 1, 100) | {"memory": {"host_bytes": 2}}
    observer.look([first, second, other], now=2)
    observer.look([first | {"age": 100}, second], now=90)  # one is gone
    assert seen.engines == {
        "expert": {"most": 2, "host_bytes": 7, "gpu_bytes": 4},
        "amateur": {"most": 1, "host_bytes": 2},
    }


def test_seconds_until_an_engine_was_at_work_are_those_of_both_phases():
    seen = Seen()
    for started, first in ((100, 120.0), (200, 207.0)):  # one model after the other
        observer = Observer(problems=100, most_tokens=128, now=started, seen=seen)
        observer.look([engine("expert", state="loading")], now=first - 5)
        begun = at_work("expert", 0, 0, under_way=1) | {"busy_s": 1.5}  # it said 0.5 s ago
        observer.look([begun, engine("amateur", state="loading") | {"age": 19}], now=first + 2)
        observer.look([at_work("expert", 3, 300) | {"busy_s": 9.0}], now=first + 50)
    assert seen.starting_s == 27


def test_the_most_memory_of_a_process_stays_when_it_is_given_back():
    script = (
        "from lr_ray.runtime.memory import peak; before = peak(); held = b'x' * 200_000_000; del held;"
        "print(peak()['host_bytes'] - before['host_bytes'], *peak())"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    grown, *names = said.stdout.split()
    assert 100_000_000 < int(grown) < 300_000_000
    assert names == ["host_bytes"]  # no GPU was used


def test_engines_that_died_hold_nothing():
    observer = Observer(problems=100, most_tokens=128, now=0)
    dead = {**at_work("expert", 10, 1000, under_way=200, inside=32), "age": 100}
    here = at_work("expert", 10, 1000, under_way=100, inside=16)
    observer.look([dead, here], now=10)
    assert observer.tokens.seen[-1] == (10, 2100)
    assert observer.look([dead, here], now=20)[0] == "16 in flight"


def test_nothing_is_said_of_time_left_when_more_came_back_than_was_asked():
    observer = Observer(problems=10, most_tokens=128, now=0)
    observer.look([at_work("expert", 9, 900)], now=10)
    assert observer.look([at_work("expert", 12, 1200)], now=30)[1] is None


def test_kept_trajectories_are_paced_by_the_amateur():
    observer = Observer(problems=100, most_tokens=128, now=0)
    observer.look([at_work("amateur", 10, 2000, inside=5)], now=10)
    note, left = observer.look([at_work("amateur", 30, 6000, inside=5)], now=20)
    assert note == "400 tokens/s, 5 in flight"
    assert left == pytest.approx(70 * 200 / 400)


def test_the_journal_keeps_the_last_that_an_engine_said():
    journal = SamplingJournal()
    journal.tell("a", {"role": "expert", "state": "loading"})
    journal.tell("a", {"state": "ready"})
    journal.tell("b", {"role": "amateur", "state": "loading"})
    first, second = journal.told()
    assert (first["role"], first["state"], second["role"]) == ("expert", "ready", "amateur")
    assert 0 <= first["age"] < 10
