"""Keys of answers, and what is left of them after a kill; nothing here starts Ray or an endpoint."""

import os
import signal
import subprocess
import sys

import pytest

from lr_ray.config import Evaluation
from lr_ray.errors import StageError
from lr_ray.evaluation.answers import Answer, AnswerStore, question
from lr_ray.evaluation.client import request
from lr_ray.evaluation.examples import Example
from lr_ray.run.lock import NOTE
from lr_ray.run.store import Run


def key(identity="m", problem="1+1?", sample=0, stops=(), examples=(), name="served", **evaluation):
    body = request(problem, Evaluation(**evaluation), stops, examples, sample)
    return question(name, identity, body).key


def test_a_key_is_of_all_that_an_answer_depends_on():
    hot = {"temperature": 1.0}
    keys = [
        key(), key("other"), key(problem="1+2?"), key(stops=(2,)), key(stop=["\n"]),
        key(max_new_tokens=7), key(system_prompt=""), key(prefill="So"), key(**hot),
        key(**hot, sample=1), key(**hot, seed=1), key(examples=[Example("a", "b")]),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert key() == key(name="another") == key(sample=3)  # greedy samples are one


@pytest.mark.parametrize("location", ["", "memory://"])
def test_a_driver_that_lost_the_run_keeps_no_more_answers(tmp_path, location):
    run = Run(f"{location}{tmp_path}/run")
    run.create()
    with run.lock():
        run.write_json(NOTE, {"token": "another", "host": "h", "pid": 7, "seen": 0.0})
        with pytest.raises(StageError, match="taken this run over"), AnswerStore(run) as store:
            store.add("a", Answer("one", "stop"))
    assert run.shards("answers") == []


def test_answers_are_there_again_and_the_last_one_wins(tmp_path):
    run = Run(str(tmp_path))
    with AnswerStore(run) as store:
        assert store.answers == {}
        store.add("a", Answer("one", "stop"))
        store.add("b", Answer("two", "length"))
    with AnswerStore(run) as store:
        assert store.answers == {"a": Answer("one", "stop"), "b": Answer("two", "length")}
    assert len(run.shards("answers")) == 1  # nothing new, nothing written


def test_a_damaged_part_says_that_its_answers_are_asked_again(tmp_path):
    run = Run(str(tmp_path))
    with AnswerStore(run) as store:
        store.add("a", Answer("one", "stop"))
    (part,) = run.shards("answers")
    run.write_bytes(part, b"PAR1")
    with pytest.raises(StageError, match=rf"{part}: not a whole shard; remove it and run again"):
        AnswerStore(run)


def test_an_exception_keeps_what_was_added(tmp_path):
    run = Run(str(tmp_path))
    try:
        with AnswerStore(run) as store:
            store.add("a", Answer("one", "stop"))
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert list(AnswerStore(run).answers) == ["a"]


def test_a_killed_process_loses_the_last_seconds_only(tmp_path):
    script = (
        "import sys, time\n"
        "from lr_ray.evaluation.answers import Answer, AnswerStore\n"
        "from lr_ray.run.store import Run\n"
        "store = AnswerStore(Run(sys.argv[1]))\n"
        "for i in range(10**6):\n"
        "    store.add(str(i), Answer('x', 'stop'))\n"
        "    time.sleep(0.01)\n"
        "    print(i, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 400:  # more than four seconds
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = AnswerStore(Run(str(tmp_path))).answers
    assert set(kept) == {str(i) for i in range(len(kept))}
    assert len(kept) > 150
