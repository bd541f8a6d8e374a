"""Retries, limits and refusals against a small HTTP server that misbehaves as it is told."""

import asyncio
import contextlib
import gc
import itertools
import json
import re
import signal
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lr_ray.config import Evaluation
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation import client
from lr_ray.evaluation.answers import AnswerStore, question
from lr_ray.evaluation.client import ask, check_endpoint, request
from lr_ray.evaluation.evaluate import ServedModel, evaluate
from lr_ray.evaluation.known_fields import KnownFields
from lr_ray.evaluation.paper import paper_request
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.run.store import Run
from lr_ray.runtime import interrupts


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
        self.refusals: list[
            tuple[str, int, str]
        ] = []  # field that is not known, status, what is said
        self.models = {
            "object": "list",
            "data": [{"id": "a", "object": "model", "max_model_len": 512}],
        }
        self.reply = None
        self.refused_key: str | None = "none of them"
        self.moved: tuple[int, str] | None = None  # status and place
        self.bodies: list[dict] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_GET(self):
        self.server.keys.add(self.headers["Authorization"])
        if self.server.moved:
            self.send_response(self.server.moved[0])
            self.send_header("Location", self.server.moved[1])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path != "/v1/models":
            self.say(404, {"error": "nothing here"})
        elif self.headers["Authorization"] in ("Bearer wrong", self.server.refused_key):
            self.say(401, {"error": {"message": "no"}})
        else:
            self.say(200, self.server.models)

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        raw = self.path == "/v1/completions"
        problem = body["prompt"] if raw else body["messages"][-1]["content"]
        with server.guard:
            server.asked[problem] += 1
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            server.bodies.append(body)
            server.keys.add(self.headers["Authorization"])
            faults = server.faults.get(problem, [])
            status = faults.pop(0) if faults else 200
        for field, code, said in server.refusals:
            if field in body:
                self.say(code, {"error": {"message": said}})
                return
        time.sleep(0.05 if status else 3)
        with server.guard:
            server.under_way -= 1
        if status == 200 and server.reply is not None:
            self.say(200, server.reply)
        elif status == 200:
            message = {"role": "assistant", "content": f"{body['model']} says {problem}"}
            said = {"text": f"{body['model']} goes on"} if raw else {"message": message}
            choice = {"index": 0, **said, "finish_reason": "stop"}
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
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def started():
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(client, "_PAUSE_S", 0.0)
    with started() as server:
        yield server


def answers(endpoint, problems, on_left_out=lambda model, field: None, **evaluation):
    settings = Evaluation(**evaluation)
    asked = [question("a", "a", request(problem, settings)) for problem in problems]
    found = {}
    ask(endpoint.url, asked, settings, lambda q, answer: found.update({q.key: answer}), on_left_out)
    return [found[q.key] for q in asked]


def test_passing_faults_are_tried_again(endpoint):
    endpoint.faults = {"p0": [503], "p1": [429, 500], "p2": [408]}
    found = answers(endpoint, [f"p{i}" for i in range(6)])
    assert [a.completion for a in found] == [f"a says p{i}" for i in range(6)]
    assert endpoint.asked == {"p0": 2, "p1": 3, "p2": 2, "p3": 1, "p4": 1, "p5": 1}


def in_a_loop(work):
    """What `work` returns or raises where an event loop runs already, as in a notebook's cell."""

    async def cell():
        return work()

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(cell())
    finally:
        loop.close()


def test_it_asks_where_an_event_loop_runs_already(endpoint):
    (found,) = in_a_loop(lambda: answers(endpoint, ["p"]))
    assert found.completion == "a says p"
    endpoint.faults = {"q": [404]}
    with pytest.raises(StageError, match=r"model a: .*404"):
        in_a_loop(lambda: answers(endpoint, ["q"]))


def test_an_interruption_there_ends_the_asking(endpoint):
    endpoint.faults = {str(i): [0] for i in range(100)}
    started = time.monotonic()
    main = threading.main_thread().ident
    threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        in_a_loop(lambda: answers(endpoint, [str(i) for i in range(100)], concurrency=1))
    assert time.monotonic() - started < 60  # all of them hang for five minutes
    assert endpoint.asked.total() < 10


def test_an_interruption_while_an_answer_is_kept_is_raised_and_not_printed(endpoint, capsys):
    asked = [question("a", "a", request(f"p{i}", Evaluation())) for i in range(20)]
    once = iter([signal.SIGINT])

    def keep(question, answer):
        for number in once:
            signal.pthread_kill(threading.main_thread().ident, number)
            time.sleep(0.1)

    with interrupts.borrowed():
        interrupts.install()  # asyncio has a handler of its own where Python's is in place
        with pytest.raises(KeyboardInterrupt):
            ask(endpoint.url, asked, Evaluation(), keep, lambda model, field: None)
    gc.collect()
    assert "was never retrieved" not in capsys.readouterr().err


def test_a_request_that_hangs_is_tried_again(endpoint):
    endpoint.faults = {"p": [0]}
    (found,) = answers(endpoint, ["p"], timeout_s=0.5)
    assert found.completion == "a says p"
    assert endpoint.asked["p"] == 2


def test_what_the_watch_finds_ends_requests_that_hang(endpoint, monkeypatch):
    monkeypatch.setattr(client, "_WATCH_S", 0.2)
    looks = itertools.count(1)

    def watch():
        if next(looks) == 3:
            raise StageError("serving: no node left")

    endpoint.faults = {"p": [0]}
    asked = [question("a", "a", request("p", Evaluation()))]
    with pytest.raises(StageError, match=r"^serving: no node left$"):
        ask(endpoint.url, asked, Evaluation(), lambda q, answer: None, watch=watch)
    ask(endpoint.url, [], Evaluation(), lambda q, answer: None, watch=watch)


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


def test_prompts_that_were_refused_when_it_failed_are_asked_again(endpoint, tmp_path):
    problems = [str(i) for i in range(60)]
    refused = problems[20:26]
    endpoint.faults = {problem: [400, 400] for problem in refused}
    asked = [question("a", "a", request(problem, Evaluation())) for problem in problems]
    for _ in range(2):
        with AnswerStore(Run(str(tmp_path))) as store:
            todo = [q for q in asked if q.key not in store.answers]
            with pytest.raises(StageError, match="refused 6 prompts"):
                ask(endpoint.url, todo, Evaluation(concurrency=1), lambda q, a: store.add(q.key, a))
    with AnswerStore(Run(str(tmp_path))) as store:  # whose server is put right
        todo = [q for q in asked if q.key not in store.answers]
        ask(endpoint.url, todo, Evaluation(concurrency=1), lambda q, a: store.add(q.key, a))
        assert {a.finish_reason for a in store.answers.values()} == {"stop"}
    assert len(store.answers) == len(problems)
    assert all(endpoint.asked[p] == (3 if p in refused else 1) for p in problems)


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


def test_a_password_in_an_address_is_not_shown():
    for url in ("http://me:secret@127.0.0.1:9/v1", "http://me:secret@[::1/v1"):
        with pytest.raises(UserError, match=r"^--endpoint http://\*\*\*@") as error:
            check_endpoint(url, ["a"])
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["http://[::1/v1", "http:///v1", "http://here:99999/v1", "http://a b/v1"]
)
def test_an_address_that_is_no_url_is_named(url):
    with pytest.raises(
        UserError, match=rf"^--endpoint {re.escape(url)}: is no URL; give one as http:"
    ):
        check_endpoint(url, ["a"])


def test_the_environments_key_is_stripped(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " mine\r\n")
    check_endpoint(endpoint.url, ["a"])
    answers(endpoint, ["p"])
    assert endpoint.keys == {"Bearer mine"}


def test_an_endpoint_of_this_machine_is_asked_past_any_proxy(endpoint, monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "socks5://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    for host in ("127.0.0.1", "localhost"):
        endpoint.url = f"http://{host}:{endpoint.server_port}/v1"
        check_endpoint(endpoint.url, ["a"])
        assert answers(endpoint, ["p"])[0].completion == "a says p"


def test_more_new_tokens_than_a_model_reads_are_told_by_our_name(endpoint):
    check_endpoint(endpoint.url, ["a"], 511)
    with pytest.raises(
        UserError, match=r"evaluation\.max_new_tokens = 512 .* a at .* reads 512 tok"
    ):
        check_endpoint(endpoint.url, ["a"], 512)
    said = "max_tokens=512 cannot be greater than max_model_len=100"
    endpoint.refusals = [("max_tokens", 400, said)]
    with pytest.raises(StageError, match=r"give a smaller --evaluation\.max_new_tokens than 512"):
        answers(endpoint, [str(i) for i in range(100)], max_new_tokens=512)


def test_models_are_found_in_a_bare_list_too(endpoint):
    endpoint.models = [{"id": "a", "type": "chat"}, {"id": "b", "max_model_len": 512}]
    check_endpoint(endpoint.url, ["a", "b"], 511)
    with pytest.raises(UserError, match=r" b at .* reads 512 tokens"):
        check_endpoint(endpoint.url, ["a", "b"], 512)
    with pytest.raises(UserError, match=r"^--models c: not served at .*; there are a, b$"):
        check_endpoint(endpoint.url, ["c"])


@pytest.mark.parametrize(
    "models",
    [[], {"data": ["a"]}, {"models": [{"name": "a"}]}, "a", None, {"data": None}, b"<html>"],
)
def test_a_list_of_models_of_another_kind_is_one_line(endpoint, models):
    endpoint.models = models
    with pytest.raises(UserError, match=r"^--(endpoint|models) ") as error:
        check_endpoint(endpoint.url, ["a"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "reply", [[], {}, {"choices": []}, {"choices": None}, {"error": "x"}, "text", {"choices": [{}]}]
)
def test_an_answer_of_another_kind_is_one_line(endpoint, reply):
    endpoint.reply = reply
    with pytest.raises(StageError, match=r"model a: what it answers is no chat completion"):
        answers(endpoint, ["p"])


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        ({"error": {"message": "Provider returned error"}, "choices": None}, r"Provider returned error"),
        ("a gateway's page", r"a gateway's page"),
    ],
)  # fmt: skip
def test_what_is_no_completion_is_asked_twice_again_and_then_shown(endpoint, reply, shown):
    endpoint.reply = reply
    with pytest.raises(
        StageError, match=rf"model a: what it answers is no chat completion: .*{shown}"
    ):
        answers(endpoint, ["p"])
    assert endpoint.asked["p"] == 3


@pytest.mark.parametrize("status", [301, 302])
def test_an_endpoint_that_has_moved_is_told_by_its_new_address(endpoint, status):
    with started() as new:
        endpoint.moved = (status, f"{new.url}/models")
        with pytest.raises(
            UserError,
            match=rf"^--endpoint {endpoint.url}: redirects to {new.url}; give --endpoint {new.url}$",
        ):
            check_endpoint(endpoint.url, ["a"])
        endpoint.moved = (308, f"{new.url}/models")  # which keeps a POST what it is
        check_endpoint(endpoint.url, ["a"])


def test_a_key_that_a_redirect_drops_is_not_blamed(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with started() as new:
        new.refused_key = None  # that there is none
        endpoint.moved = (308, f"http://localhost:{new.server_port}/v1/models")
        with pytest.raises(UserError, match=r": redirects to http://localhost:.*/v1; give"):
            check_endpoint(endpoint.url, ["a"])


def chat(content, finish_reason="stop"):
    message = {"role": "assistant", "content": content}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}


@pytest.mark.parametrize(
    ("reply", "completion", "finish_reason"),
    [
        (chat("4", "max_tokens"), "4", "length"),
        (chat("4", "MAX_TOKENS"), "4", "length"),
        (chat("4", "model_length"), "4", "length"),
        (chat("4", "length"), "4", "length"),
        (chat("4", "eos"), "4", "eos"),
        (chat("4", None), "4", "stop"),
        (chat(None, "content_filter"), "", "content_filter"),
        (chat("half \ud83d"), "half \ufffd", "stop"),
        (chat([{"type": "thinking", "thinking": [{"type": "text", "text": "5?"}]},
               {"type": "text", "text": "It is "}, {"type": "text", "text": "4"}]), "It is 4", "stop"),
    ],
)  # fmt: skip
def test_answers_as_other_servers_give_them(endpoint, tmp_path, reply, completion, finish_reason):
    endpoint.reply = reply
    (found,) = answers(endpoint, ["p"])
    assert (found.completion, found.finish_reason) == (completion, finish_reason)
    with AnswerStore(Run(str(tmp_path))) as store:
        store.add("p", found)
    assert AnswerStore(Run(str(tmp_path))).answers == {"p": found}


@pytest.mark.parametrize(
    "given",
    [
        {"finish_reason": "error"},
        {"finish_reason": "abort"},
        {"finish_reason": "network_error"},
        {"error": {"code": 502}},
    ],
)
def test_an_answer_that_a_server_broke_off_is_asked_for_again(endpoint, given):
    endpoint.reply = chat("The first half of")
    endpoint.reply["choices"][0] |= given
    with pytest.raises(
        StageError,
        match=r"no chat completion: .*(error=|finish_reason='(error|abort|network_error)')",
    ):
        answers(endpoint, ["p"])
    assert endpoint.asked["p"] == 3


@pytest.mark.parametrize("content", [5, {"text": "4"}, ["4"], [{"type": "text"}]])
def test_content_that_is_no_text_is_one_line(endpoint, content):
    endpoint.reply = chat(content)
    with pytest.raises(StageError, match=r"model a: what it answers is no chat completion"):
        answers(endpoint, ["p"])


EVERY_FIELD = {
    "temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0, "n": 1, "seed": 0, "max_tokens": 2048,
    "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0,
}  # fmt: skip


def test_every_sampling_field_is_in_each_request(endpoint):
    answers(endpoint, ["p"])
    (body,) = endpoint.bodies
    assert {name: body[name] for name in EVERY_FIELD} == EVERY_FIELD
    answers(endpoint, ["q"], temperature=0.7, seed=2**62)
    asked = {**EVERY_FIELD, "temperature": 0.7, "seed": endpoint.bodies[1]["seed"]}
    assert {name: endpoint.bodies[1][name] for name in EVERY_FIELD} == asked
    assert 0 <= endpoint.bodies[1]["seed"] < 2**63


OPENAI = "Unrecognized request argument supplied: {}"


@pytest.mark.parametrize(
    ("unknown", "status", "said"),
    [
        (["top_k", "min_p"], 400, OPENAI),
        (["repetition_penalty"], 400, "Unknown parameter: '{}'."),
        (["top_k"], 400, "property '{}' is unsupported"),
        (["min_p"], 422, '{{"type":"extra_forbidden","loc":["body","{}"],"msg":"Extra inputs are not permitted"}}'),
        (["seed"], 400, "The parameter `{}` is not supported by this model"),
        (["temperature"], 400, "Unsupported value: '{}' does not support 0 with this model"),
        (["top_p", "presence_penalty"], 400, "Unsupported parameter: {}"),
        (["frequency_penalty"], 422, 'json: unknown field "{}"'),
        (["top_k"], 400, 'Invalid JSON payload received. Unknown name \\"{}\\": Cannot find field.'),
        (["n"], 400, "property '{}' is unsupported"),
        (["top_p"], 422, "Input validation error: `{}` must be > 0.0 and < 1.0"),
        (["top_k"], 400, "{} must be >= 0"),
        (["top_p"], 400, "`temperature` and `{}` cannot both be specified for this model."),
    ],
)  # fmt: skip
def test_a_field_that_an_endpoint_does_not_know_is_left_out_and_told_once(
    endpoint, unknown, status, said
):
    endpoint.refusals = [(name, status, said.format(name)) for name in unknown]
    told = []
    found = answers(endpoint, [str(i) for i in range(20)], lambda *of: told.append(of))
    assert [a.completion for a in found] == [f"a says {i}" for i in range(20)]
    assert sorted(told) == sorted(("a", name) for name in unknown)
    answered = [b for b in endpoint.bodies if not set(unknown) & b.keys()]
    assert len(answered) == 20
    assert all(EVERY_FIELD.keys() - set(unknown) <= b.keys() for b in answered)


def test_a_temperature_that_an_endpoint_refuses_is_not_left_out():
    known = KnownFields("a", lambda model, field: None)
    body = request("q", Evaluation(temperature=1.5))
    assert not known.leave_out(body, "temperature must be between 0 and 1")
    assert not known.leave_out(body, "the prompt must have at most 100 tokens\n")
    assert known.left_out == []


def test_extensions_are_left_out_together_where_none_is_named(endpoint):
    said = "Additional properties are not allowed"
    endpoint.refusals = [(name, 400, said) for name in ("top_k", "min_p", "repetition_penalty")]
    told = []
    assert answers(endpoint, ["p"], lambda *of: told.append(of))[0].completion == "a says p"
    assert [field for _, field in told] == ["top_k", "min_p", "repetition_penalty"]


def test_the_other_name_of_the_limit_is_taken(endpoint):
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    endpoint.refusals = [("max_tokens", 400, said)]
    told = []
    (found,) = answers(endpoint, ["p"], lambda *of: told.append(of), max_new_tokens=9)
    assert (found.completion, told) == ("a says p", [])
    assert endpoint.bodies[-1]["max_completion_tokens"] == 9


def test_what_is_refused_after_an_answer_is_refused_for_itself(endpoint):
    assert answers(endpoint, ["p"])[0].finish_reason == "stop"
    endpoint.faults = {"q": [400]}
    known = KnownFields("a", lambda model, field: None)
    known.settled = True
    assert not known.leave_out(request("q", Evaluation()), OPENAI.format("top_k"))


def completions(endpoint, problems, **evaluation):
    settings = Evaluation(protocol="paper", **evaluation)
    asked = [question("a", "a", paper_request(p, settings, completion=True)) for p in problems]
    found = {}
    ask(endpoint.url, asked, settings, lambda q, answer: found.update({q.key: answer}))
    return [found[q.key] for q in asked]


def raw(problem):
    return f"Question: {problem}\nAnswer: "


def test_raw_completions_are_asked_with_the_same_fields_key_retries_and_refusals(
    endpoint, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "mine")
    endpoint.faults = {raw("p"): [503], raw("long"): [400]}
    found = completions(endpoint, ["p", "long"])
    assert [a.finish_reason for a in found] == ["stop", "refused"]
    assert found[0].completion == "a goes on"
    assert endpoint.asked == {raw("p"): 2, raw("long"): 1}
    assert endpoint.keys == {"Bearer mine"}
    for body in endpoint.bodies:
        assert {name: body[name] for name in EVERY_FIELD} == EVERY_FIELD
        assert body.keys() == {*EVERY_FIELD, "model", "prompt", "stop"}


def test_many_refused_completions_end_it(endpoint):
    endpoint.faults = {raw(str(i)): [400] for i in range(100)}
    with pytest.raises(StageError, match=r"model a refused 6 prompts, .*told to say 400"):
        completions(endpoint, [str(i) for i in range(100)])


def test_an_endpoint_without_completions_is_one_line(endpoint):
    endpoint.faults = {raw("p"): [404]}
    with pytest.raises(StageError, match=r"^evaluation: http.*: model a: .*404"):
        completions(endpoint, ["p"])
    endpoint.reply = {"choices": [{}]}
    with pytest.raises(StageError, match=r"model a: what it answers is no completion"):
        completions(endpoint, ["q"])


def test_both_protocols_go_on_where_they_were_interrupted(endpoint, tmp_path):
    paper = {"expert_prompt": "completion", "stop_token_ids": [2, 0]}
    evaluation = Evaluation(protocol="both", paper=paper, max_problems=3)
    models = [ServedModel("expert", "a", "a", untrained=True), ServedModel("improved", "b", "b")]
    there = lambda group: contextlib.nullcontext(endpoint.url)  # noqa: E731
    whole, cut = Run(str(tmp_path / "whole")), Run(str(tmp_path / "cut"))
    tasks = load_tasks(evaluation)
    tables = evaluate(tasks, [models], there, evaluation, whole)
    assert tables.keys() == {"demo", "demo-paper"}
    assert tables["demo-paper"]["expert_completion"].to_pylist() == ["a goes on"] * 3
    assert len(endpoint.bodies) == 12
    assert sum("prompt" in body for body in endpoint.bodies) == 3
    answered = list(AnswerStore(whole).answers.items())
    with AnswerStore(cut) as store:
        for key, answer in answered[:7]:
            store.add(key, answer)
    again = evaluate(tasks, [models], there, evaluation, cut)
    assert len(endpoint.bodies) == 12 + 5
    assert all(again[name].equals(tables[name]) for name in tables)
