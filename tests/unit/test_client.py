"""Retries, limits and refusals against a small HTTP server that misbehaves as it is told."""

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lr_ray.config import Evaluation
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation.answers import question
from lr_ray.evaluation.client import ask, check_endpoint, request


class Endpoint(ThreadingHTTPServer):
    """Answers a problem with itself; `faults[problem]` are statuses that come first, 0 hangs."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: dict[str, list[int]] = {}
        self.asked: Counter = Counter()
        self.keys: set = set()
        self.under_way = self.most_under_way = 0
        self.guard = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_GET(self):
        self.server.keys.add(self.headers["Authorization"])
        if self.path != "/v1/models":
            self.say(404, {"error": "nothing here"})
        elif self.headers["Authorization"] == "Bearer wrong":
            self.say(401, {"error": {"message": "no"}})
        else:
            self.say(200, {"object": "list", "data": [{"id": "a", "object": "model"}]})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        problem = body["messages"][-1]["content"]
        with server.guard:
            server.asked[problem] += 1
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            faults = server.faults.get(problem, [])
            status = faults.pop(0) if faults else 200
        time.sleep(0.05 if status else 3)
        with server.guard:
            server.under_way -= 1
        if status == 200:
            message = {"role": "assistant", "content": f"{body['model']} says {problem}"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.say(
                200,
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "a",
                    "choices": [choice],
                },
            )
        elif status:
            self.say(status, {"error": {"message": f"told to say {status}"}})

    def say(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def answers(endpoint, problems, **evaluation):
    settings = Evaluation(**evaluation)
    asked = [question("a", "a", request(problem, settings)) for problem in problems]
    found = {}
    ask(endpoint.url, asked, settings, lambda q, answer: found.update({q.key: answer}))
    return [found[q.key] for q in asked]


def test_passing_faults_are_tried_again(endpoint):
    endpoint.faults = {"p0": [503], "p1": [429, 500], "p2": [408]}
    found = answers(endpoint, [f"p{i}" for i in range(6)])
    assert [a.completion for a in found] == [f"a says p{i}" for i in range(6)]
    assert endpoint.asked == {"p0": 2, "p1": 3, "p2": 2, "p3": 1, "p4": 1, "p5": 1}


def test_a_request_that_hangs_is_tried_again(endpoint):
    endpoint.faults = {"p": [0]}
    (found,) = answers(endpoint, ["p"], timeout_s=0.5)
    assert found.completion == "a says p"
    assert endpoint.asked["p"] == 2


def test_no_more_requests_are_under_way_than_asked_for(endpoint):
    answers(endpoint, [str(i) for i in range(40)], concurrency=4)
    assert endpoint.most_under_way == 4


def test_a_refused_prompt_is_an_answer_without_an_answer(endpoint):
    endpoint.faults = {"long": [400]}
    found = answers(endpoint, ["long", "short"])
    assert (found[0].finish_reason, found[1].finish_reason) == ("refused", "stop")
    assert "told to say 400" in found[0].completion
    assert endpoint.asked["long"] == 1


def test_many_refused_prompts_end_it(endpoint):
    endpoint.faults = {str(i): [400] for i in range(100)}
    with pytest.raises(StageError, match=r"model a refused 6 prompts, .*told to say 400"):
        answers(endpoint, [str(i) for i in range(100)])


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_is_wrong_for_good_ends_it_at_once(endpoint, status):
    endpoint.faults = {"p": [status]}
    with pytest.raises(StageError, match=rf"^evaluation: http.*: model a: .*{status}"):
        answers(endpoint, ["p"])
    assert endpoint.asked["p"] == 1


def test_the_key_is_the_environments(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "mine")
    check_endpoint(endpoint.url, ["a"])
    assert endpoint.keys == {"Bearer mine"}


@pytest.mark.parametrize(
    ("path", "models", "key", "message"),
    [
        ("/v1", ["a", "b"], "k", r"--models b: not served at .*; there are a"),
        ("/v1", ["a"], "wrong", r"--endpoint .*: the key is not accepted; .*OPENAI_API_KEY"),
        ("", ["a"], "k", r"--endpoint .*: has no /models; .*/v1"),
    ],
)
def test_an_endpoint_that_cannot_be_asked_says_why(
    endpoint, monkeypatch, path, models, key, message
):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match=message):
        check_endpoint(endpoint.url.removesuffix("/v1") + path, models)


def test_an_address_that_nobody_listens_on_is_named():
    with pytest.raises(UserError, match=r"--endpoint http://127\.0\.0\.1:9/v1: does not answer"):
        check_endpoint("http://127.0.0.1:9/v1", ["a"])
