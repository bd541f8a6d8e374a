"""The thread that owns an engine, over an engine that counts steps; and batches that share it under the guard."""

import gc
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from lr_ray.engines.guard import Gate, Guard, SamplingJournal
from lr_ray.engines.loop import EngineLoop


class Steps:
    """A request is a list of one number: the steps that it takes. 0 is refused, 13 breaks the engine."""

    def __init__(self, room=4):
        self.room, self.left, self.log, self.most = room, {}, [], 0
        self.open = threading.Event()
        self.open.set()

    def add(self, name, token_ids, params):
        if token_ids[0] == 0:
            raise ValueError("no steps")
        self.left[name] = [token_ids[0], token_ids[0], params]

    def step(self):
        self.open.wait(10)
        self.most = max(self.most, len(self.left))
        if any(steps == 13 for steps, _, _ in self.left.values()):
            raise RuntimeError("CUDA error")
        for request in self.left.values():
            request[1] -= 1
        done = [name for name, (_, left, _) in self.left.items() if not left]
        self.log.extend(self.left[name][2] for name in done)
        return [
            SimpleNamespace(request_id=name, outputs=[SimpleNamespace(token_ids=[0] * steps)])
            for name, (steps, _, _) in ((name, self.left.pop(name)) for name in done)
        ]

    def abort(self, names):
        for name in names:
            self.left.pop(name, None)

    def tokens_under_way(self):
        return sum(steps - left for steps, left, _ in self.left.values())


@contextmanager
def in_threads(*works):
    """Runs the works side by side; each leaves its result, or what it raised, in the list."""
    results = [None] * len(works)

    def run(place, work):
        try:
            results[place] = work()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(works)]
    for thread in threads:
        thread.start()
    yield results
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def asks(loop, order, *steps):
    def run():
        loop.rank(order)
        outputs = loop.run([[s] for s in steps], [order] * len(steps))
        return [len(output.outputs[0].token_ids) for output in outputs]

    return run


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def test_each_caller_gets_its_own_results_in_order_and_the_engine_is_never_overfull():
    engine = Steps()
    loop = EngineLoop(lambda: engine)
    with in_threads(*(asks(loop, i, 3, 1, 7, 2, 5) for i in range(6))) as results:
        pass
    assert results == [[3, 1, 7, 2, 5]] * 6
    assert engine.most == 4
    assert loop.run([], []) == []


def test_requests_enter_as_others_leave_and_the_oldest_batch_comes_first():
    engine = Steps(room=2)
    engine.open.clear()
    loop = EngineLoop(lambda: engine)
    with in_threads(asks(loop, 0, 1, 9)) as first:
        until(lambda: engine.left)
        with in_threads(asks(loop, 2, 1, 1), asks(loop, 1, 1, 1)) as later:
            until(lambda: len(loop._state.waiting) == 4)
            engine.open.set()
    assert (*first, *later) == ([1, 9], [1, 1], [1, 1])
    assert engine.log == [0, 1, 1, 2, 2, 0]  # beside the request of nine steps


def test_a_refused_request_is_its_batch_s_alone():
    engine = Steps()
    engine.open.clear()
    loop = EngineLoop(lambda: engine)
    with in_threads(asks(loop, 0, 2, 3), asks(loop, 1, 5, 0, 5)) as results:
        until(lambda: any(isinstance(r, ValueError) for r in results) or len(engine.left) > 1)
        engine.open.set()
    assert results[0] == [2, 3]
    assert str(results[1]) == "no steps"
    assert loop.is_sound
    assert not engine.left
    assert asks(loop, 2, 4)() == [4]


def test_an_engine_that_raises_is_nobody_s_any_more():
    engine = Steps()
    engine.open.clear()
    loop = EngineLoop(lambda: engine)
    with in_threads(asks(loop, 0, 5), asks(loop, 1, 13), asks(loop, 2, 1, 1, 1, 1)) as results:
        until(lambda: len(engine.left) + len(loop._state.waiting) == 6)
        engine.open.set()
    assert [str(error) for error in results] == ["CUDA error"] * 3
    assert not loop.is_sound
    with pytest.raises(RuntimeError, match="CUDA error"):
        asks(loop, 3, 1)()


def test_an_engine_that_cannot_start_says_why():
    def start():
        raise OSError("no weights")

    with pytest.raises(OSError, match="no weights"):
        EngineLoop(start)


def test_the_thread_ends_with_the_loop():
    before = set(threading.enumerate())
    loop = EngineLoop(Steps)
    (thread,) = set(threading.enumerate()) - before
    assert asks(loop, 0, 3)() == [3]
    assert thread.is_alive()
    del loop
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_what_is_told_counts_problems_tokens_and_time():
    told = []
    loop = EngineLoop(Steps, lambda activity: told.append(vars(activity).copy()))
    asks(loop, 0, 3, 4)()
    loop.run([[1]], [0], counted=False)
    until(lambda: told and told[-1]["finished"] == 2)
    assert told[-1]["tokens"] == 7
    assert told[-1]["inside"] == told[-1]["waiting"] == told[-1]["under_way"] == 0
    assert 0 < told[-1]["filled_s"] <= told[-1]["busy_s"]


class Ended(BaseException):
    """Stands for the end of the process, in each of its threads."""


class Process:
    """Actor and engine of several batches: all end when one of them does, and are started again."""

    def __init__(self):
        self.journal, self.lives, self.together = SamplingJournal(), 0, []
        self.asking = threading.Lock()

    def run(self, batches):
        """Results of the batches by name; `batches` are lists of numbers."""
        results = {}
        while len(results) < len(batches):
            todo = {name: items for name, items in batches.items() if name not in results}
            self._live(todo, results)
            self.lives += 1
        return results

    def _live(self, todo, results):
        inside, dead = {}, threading.Event()
        meeting, met = threading.Barrier(len(todo)), set()

        def end(_code=1):
            dead.set()
            raise Ended

        def ask(method, *arguments):
            with self.asking:
                return end() if dead.is_set() else getattr(self.journal, method)(*arguments)

        def work(items, name):
            inside[name] = list(items)
            self.together.append(dict(inside))
            if self.lives == 0 and name not in met:  # their first start is at the same time
                met.add(name)
                meeting.wait(10)
            if -1 in items:
                del inside[name]
                raise ValueError("negative")
            if 13 in items:
                end()
            if dead.wait(0.05):  # an engine that ends takes the others with it
                end()
            del inside[name]
            return [i * i for i in items]

        guard = Guard(ask, lambda: True, end)

        def batch(name):
            try:
                done = guard.run(name, todo[name], lambda items: work(items, name))
            except Ended:
                return
            results[name] = done

        threads = [threading.Thread(target=batch, args=(name,)) for name in todo]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


def test_only_the_batch_that_is_to_blame_is_taken_apart():
    process = Process()
    results = process.run({"a": [1, 2], "bad": [3, 13], "c": [4], "d": [5, 6]})
    assert "the engine died 2 times on this problem alone" in results["bad"].pop()
    assert results == {"a": [1, 4], "bad": [9], "c": [16], "d": [25, 36]}
    assert process.together[3].keys() == {"a", "bad", "c", "d"}  # shared at first
    again = process.together[4:]
    assert all(len(inside) == 1 for inside in again)
    innocent = [inside for inside in again if "bad" not in inside]
    assert sorted(map(str, innocent)) == ["{'a': [1, 2]}", "{'c': [4]}", "{'d': [5, 6]}"]
    alone = [inside["bad"] for inside in again if "bad" in inside]
    assert alone == [[3, 13], [3], [13], [3], [13], [3]]  # 3 is done anew in each life
    assert process.lives == 5
    assert process.journal.starts == {"bad/1": 2}


def test_a_gate_lets_one_in_alone_and_holds_the_others_back():
    gate, order, first = Gate(), [], threading.Event()

    def enter(name, alone, hold=0.0):
        def run():
            with gate.enter(alone):
                order.append(name)
                first.wait(hold)
                assert gate.inside == 1 or not alone
                order.append(name)

        return run

    with in_threads(enter("shared", False, 10)):
        until(lambda: order)
        with in_threads(enter("alone", True)):
            until(lambda: gate.alone)
            with in_threads(enter("late", False)):
                first.set()
    assert order == ["shared", "shared", "alone", "alone", "late", "late"]


def test_a_refused_batch_shares_with_others_until_its_problems_are_tried_alone():
    process = Process()
    results = process.run({"a": [1, 2], "b": [3, -1]})
    assert results == {"a": [1, 4], "b": [9, "ValueError: negative"]}
    assert process.lives == 1
    assert process.together[1].keys() == {"a", "b"}
    assert process.together[2:] == [{"b": [3]}, {"b": [-1]}]
