"""Which problems are tried again and which are given up, with a journal that outlives its callers."""

import pytest

from lr_ray.engines.guard import DEATHS_IN_A_ROW, Guard, SamplingJournal
from lr_ray.errors import StageError


class EngineDiedError(BaseException):
    """Stands for the end of the process."""


def die(_code: int):
    raise EngineDiedError


def squares(items):
    """Takes no negative number, breaks on 13, is killed by 666."""
    if any(i < 0 for i in items):
        raise ValueError("negative\nand more")
    if 13 in items:
        raise RuntimeError("CUDA error")
    if 666 in items:
        raise EngineDiedError
    return [i * i for i in items]


class Engine:
    """Restarts a guard as Ray restarts an actor, until the batch is done."""

    def __init__(self, is_idle=True):
        self.journal, self.restarts, self.is_idle = SamplingJournal(), 0, is_idle

    def run(self, items, batch="b"):
        while True:
            guard = Guard(
                lambda method, *a: getattr(self.journal, method)(*a), lambda: self.is_idle, die
            )
            try:
                return guard.run(batch, items, squares)
            except EngineDiedError:
                self.restarts += 1


def test_a_healthy_batch_is_worked_on_once():
    engine = Engine()
    assert engine.run([1, 2, 3]) == [1, 4, 9]
    assert engine.restarts == 0
    assert not engine.journal.starts
    assert engine.run([]) == []


def test_a_refused_problem_is_rejected_without_a_restart():
    engine = Engine()
    assert engine.run([1, -2, 3]) == [1, "ValueError: negative", 9]
    assert engine.restarts == 0


def test_an_engine_that_was_at_work_is_not_trusted_after_a_value_error():
    engine = Engine(is_idle=False)
    assert engine.run([1, -2])[0] == 1
    assert engine.restarts == 4


@pytest.mark.parametrize(("poison", "reason"), [(13, "CUDA error"), (666, "killed")])
def test_a_problem_that_ends_engines_is_given_up_and_the_others_are_done(poison, reason):
    engine = Engine()
    results = engine.run([1, 2, poison, 4])
    assert [r for r in results if not isinstance(r, str)] == [1, 4, 16]
    assert "the engine died 2 times on this problem alone" in results[2]
    assert reason in results[2]
    assert engine.restarts == 4
    assert engine.run([5], "next") == [25]
    assert engine.restarts == 4


def test_engines_that_die_on_everything_end_the_stage():
    engine = Engine()

    def work():
        for batch in range(100):
            engine.run([13, 13, 13], f"b{batch}")

    with pytest.raises(StageError, match=f"{DEATHS_IN_A_ROW + 1} engines in a row died"):
        work()


def test_a_node_lost_with_many_engines_is_no_reason_to_end_the_stage():
    journal = SamplingJournal()
    for _ in range(2):
        for engine in range(16):
            journal.start(f"batch {engine}")
    for engine in range(16):
        journal.finish(f"batch {engine}")


def test_many_bad_problems_do_not_end_the_stage_while_others_are_done():
    engine = Engine()
    for batch in range(20):
        assert engine.run([1, 13, 2], f"b{batch}")[2] == 4
