"""`jobs/serve.py` as its clients see it: requests, errors, load, a killed replica, SIGTERM."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import openai
import psutil
import pytest

from lr_ray import embedded, serving
from lr_ray.config import Serving
from lr_ray.errors import UserError
from lr_ray.models.models import stop_token_ids
from tests.integration.endpoint.conftest import KEY
from tests.ports import free_port

MODELS = {"expert": str(embedded.expert_path()), "improved": str(embedded.amateur_path())}
NEW_TOKENS = 64


@pytest.fixture(scope="module")
def url(served):
    return served.url


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def problems():
    return [row["problem"] for row in embedded.generate("heldout", 50, seed=3)]


def messages(problem):
    return [{"role": "user", "content": problem}]


def chat(client, model, problem, **options):
    return client.chat.completions.create(
        model=model,
        messages=messages(problem),
        temperature=0,
        max_tokens=NEW_TOKENS,
        extra_body={"stop_token_ids": stop_token_ids(MODELS[model])},
        **options,
    )


def said_by_transformers(path, problems):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    for problem in problems:
        prompt = tokenizer.apply_chat_template(
            messages(problem), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**prompt, do_sample=False, max_new_tokens=NEW_TOKENS)
        tokens = output[0, prompt["input_ids"].shape[1] :]
        yield tokenizer.decode(tokens, skip_special_tokens=True)


def said_offline(path, problems):
    from vllm import SamplingParams

    from lr_ray.config import Place, Pool
    from lr_ray.engines.loop import EngineLoop
    from lr_ray.engines.vllm import Steps, start_engine

    loop = EngineLoop(lambda: Steps(start_engine(path, Pool(dtype="float32"), Place(gpus=0), 512)))
    params = SamplingParams(
        temperature=0, max_tokens=NEW_TOKENS, stop_token_ids=stop_token_ids(path), detokenize=False
    )
    from lr_ray.models.models import load_tokenizer, render_prompt

    tokenizer = load_tokenizer(path)
    prompts = [render_prompt(tokenizer, problem, None) for problem in problems]
    outputs = loop.run(prompts, [params] * len(prompts))
    return [tokenizer.decode(o.outputs[0].token_ids, skip_special_tokens=True) for o in outputs]


def test_a_taken_port_is_named_before_anything_starts(url):
    port = int(url.split(":")[2].split("/")[0])
    with pytest.raises(UserError, match=rf"^serving\.port: {port} is taken"):
        serving.check_port(Serving(port=port))


def test_a_foreign_address_is_named():
    with pytest.raises(UserError, match=r"^serving\.host: .*192\.0\.2\.1"):
        serving.check_port(Serving(host="192.0.2.1", port=free_port()))


def test_models_are_listed_and_one_is_described(client):
    assert {model.id for model in client.models.list()} == set(MODELS)
    described = client.models.retrieve("expert")
    assert (described.id, described.object, described.max_model_len) == ("expert", "model", 512)
    assert 0 <= time.time() - described.created < 3600
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_endpoint_vllm_and_transformers_say_the_same_greedily(client, problems):
    path = MODELS["expert"]
    served = [chat(client, "expert", problem).choices[0] for problem in problems]
    texts = [choice.message.content for choice in served]
    assert texts == list(said_by_transformers(path, problems))
    assert texts == said_offline(path, problems)
    assert {choice.finish_reason for choice in served} == {"stop"}
    assert len(set(texts)) > 40


def test_each_name_is_answered_by_its_model(client, problems):
    assert [
        chat(client, "improved", problem).choices[0].message.content for problem in problems[:5]
    ] == list(said_by_transformers(MODELS["improved"], problems[:5]))


def test_streaming_gives_the_same_text(client, problems):
    whole = chat(client, "expert", problems[0]).choices[0]
    chunks = [c.choices[0] for c in chat(client, "expert", problems[0], stream=True) if c.choices]
    assert "".join(c.delta.content or "" for c in chunks) == whole.message.content
    assert chunks[-1].finish_reason == whole.finish_reason
    assert len(chunks) > 2


def test_completions_continue_a_raw_prompt(client, problems):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODELS["expert"])
    prompt = tokenizer.apply_chat_template(
        messages(problems[0]), add_generation_prompt=True, tokenize=False
    )
    completion = client.completions.create(
        model="expert", prompt=prompt, temperature=0, max_tokens=NEW_TOKENS
    )
    whole = chat(client, "expert", problems[0]).choices[0].message.content
    assert completion.choices[0].text == whole


def test_logprobs_are_those_of_the_greedy_tokens(client, problems):
    content = chat(client, "expert", problems[0], logprobs=True, top_logprobs=3).choices[0].logprobs
    assert len(content.content) > 5
    for token in content.content:
        top = [other.logprob for other in token.top_logprobs]
        assert token.logprob == max(top) <= 0
        assert len(top) == 3


def test_max_tokens_cuts_and_says_so(client, problems):
    response = client.chat.completions.create(
        model="expert", messages=messages(problems[0]), temperature=0, max_tokens=2
    )
    assert response.choices[0].finish_reason == "length"
    assert response.usage.completion_tokens == 2


def test_a_missing_or_wrong_key_is_unauthorized(url, problems):
    for key in ("none", KEY + "x"):
        with (
            openai.OpenAI(base_url=url, api_key=key, max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError, match="API key"),
        ):
            chat(stranger, "expert", problems[0])


def test_unknown_model_is_not_found(client, problems):
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.chat.completions.create(model="nobody", messages=messages(problems[0]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"messages": messages("pens " * 2000)}, "maximum context length is 512"),
        ({"messages": messages("pens"), "max_tokens": 5000}, "max_tokens"),
        ({"messages": messages("pens"), "temperature": -1}, "temperature"),
        ({"messages": "pens"}, "messages"),
    ],
)
def test_what_cannot_be_answered_is_a_bad_request(client, options, said):
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        client.chat.completions.create(model="expert", **options)
    assert caught.value.body["message"]


TOOL = {"type": "function", "function": {"name": "f"}}
PART = {"role": "user", "content": [{"type": "zzz"}]}
CHAT_REFUSED = {
    "a choice of no tools": {"tool_choice": "auto"},
    "a required choice of no tools": {"tool_choice": "required"},
    "a named choice of no tools": {"tool_choice": {"type": "function", "function": {"name": "g"}}},
    "no tools in a list": {"tools": []},
    "a choice without a parser": {"tools": [TOOL], "tool_choice": "auto"},
    "options of no stream": {"stream_options": {"include_usage": True}},
    "top log-probabilities of none": {"top_logprobs": 5},
    "too many log-probabilities": {"logprobs": True, "top_logprobs": 1000},
    "log-probabilities that are no number": {"logprobs": True, "top_logprobs": "x"},
    "an unknown part": {"messages": [PART]},
    "a part without its text": {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    "an image": {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}}]}]},
    "a part that is a text": {"messages": [{"role": "user", "content": ["hi"]}]},
    "half a surrogate pair": {"messages": messages("\ud83d")},
    "half a surrogate pair as a stop": {"stop": "\udc00"},
    "no messages": {"messages": None},
    "a message that is a text": {"messages": ["x"]},
    "no answers": {"n": 0},
    "several greedy answers of none": {"n": -1},
    "an empty stop": {"stop": [""]},
    "a stop beyond the vocabulary": {"logit_bias": {"99999": 1}},
    "a schema of no type": {"response_format": {"type": "json_schema"}},
    "a regular expression that is none": {"structured_outputs": {"regex": "("}},
    "a template that is none": {"chat_template": "{% for %}"},
    "a template that refuses": {"chat_template": "{{ raise_exception('no') }}"},
    "two ways to begin": {"add_generation_prompt": True, "continue_final_message": True},
    "a temperature that is no number": {"temperature": float("nan")},
    "a seed beyond 64 bits": {"seed": 2**70},
    "a limit of nothing": {"max_tokens": -1},
    "a share above one": {"top_p": 1.5},
    "a penalty out of bounds": {"frequency_penalty": -9},
    "a schema that refers to itself": {"structured_outputs": {"json": {"$ref": "#"}}},
    "a class that the engine's expressions lack": {"structured_outputs": {"regex": r"\p{Han}"}},
    "a list of no schemas": {"structured_outputs": []},
    "content that is a mapping": {"messages": messages({})},
    "messages beyond what can be checked": {"messages": messages("a") * 20_000},
    "numbers in the place of messages": {"messages": [1] * 500_000},
    "texts in the place of parts": {"messages": messages([""] * 500_000)},
    "numbers in the place of choices": {"structured_outputs": {"choice": [1] * 500_000}},
    "a message without content": {"messages": [{"role": "user"}]},
    "a field of an older vLLM": {"guided_json": {"type": "object"}},
    "functions of an older OpenAI": {"functions": [{"name": "f"}]},
    "an answer as sound": {"modalities": ["audio"]},
    "beams that end nowhere": {"use_beam_search": True, "max_tokens": 0},
    "beams by a schema": {"use_beam_search": True, "response_format": {"type": "json_object"}},
    "a tool that is a text": {"tools": ["f"], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    "more stops than can be": {"stop": [str(i) for i in range(1000)]},
}  # fmt: skip
COMPLETION_REFUSED = {
    "an empty prompt": {"prompt": ""},
    "no prompt in a list": {"prompt": []},
    "an empty one of several": {"prompt": ["a", ""]},
    "no token ids": {"prompt": [[]]},
    "a token beyond the vocabulary": {"prompt": [99999]},
    "the first token beyond the vocabulary": {"prompt": [[1], [590]]},
    "the best of some": {"best_of": 3},
    "a token below 0": {"prompt": [-1]},
    "a prompt that is a number": {"prompt": 5},
    "embeddings that are none": {"prompt_embeds": "zzz"},
    "a suffix": {"suffix": "x"},
    "half a surrogate pair": {"prompt": "\ud83d"},
}


def post(url, path, body):
    request = urllib.request.Request(
        f"{url}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("why", CHAT_REFUSED)
def test_a_chat_request_that_cannot_be_answered_is_not_to_be_tried_again(url, why):
    body = {"model": "expert", "messages": messages("pens"), "max_tokens": 2, **CHAT_REFUSED[why]}
    status, answer = post(url, "/chat/completions", body)
    assert (status, bool(answer["error"]["message"])) == (400, True), answer


@pytest.mark.parametrize("why", CHAT_REFUSED)
def test_a_stream_that_cannot_begin_is_refused_as_its_answer_would_be(url, why):
    body = {"model": "expert", "messages": messages("pens"), "max_tokens": 2, "stream": True}
    if why == "options of no stream":
        return
    status, answer = post(url, "/chat/completions", {**body, **CHAT_REFUSED[why]})
    assert (status, bool(answer["error"]["message"])) == (400, True), answer


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"messages": messages(5)}, "messages.0.content: Input should be a valid string"),
        ({"messages": messages([{"type": "text"}])}, "messages.0.content.0.text: Field required"),
        ({"structured_outputs": []}, "structured_outputs cannot be read"),
        ({"stop": 5}, "stop: Input should be a valid string"),
        ({"response_format": 5}, "response_format: Input should be a valid dictionary"),
        ({"structured_outputs": {"json": {"$ref": "#"}}}, "grammar of structured_outputs"),
        ({"stop": ["a"] * 1000}, "stop: List should have at most"),
        ({"stop": ["a", None]}, "stop.1: Input should be a valid string"),
        ({"tools": [None], "tool_choice": {"function": {"name": "f"}}}, "tools cannot be read"),
        ({"model": None}, "model: give one of expert, improved"),
    ],
)
def test_a_refusal_names_the_field(url, fields, said):
    body = {"model": "expert", "messages": messages("pens"), "max_tokens": 2, **fields}
    assert said in post(url, "/chat/completions", body)[1]["error"]["message"]


@pytest.mark.parametrize("why", COMPLETION_REFUSED)
def test_a_completion_that_cannot_be_answered_is_not_to_be_tried_again(url, why):
    body = {"model": "expert", "prompt": "pens", "max_tokens": 2, **COMPLETION_REFUSED[why]}
    status, answer = post(url, "/completions", body)
    assert (status, bool(answer["error"]["message"])) == (400, True), answer


@pytest.mark.parametrize(
    "name", ["expert:lora", "expert:", ":", "", "Expert", "expert/x", "\ud83d"]
)
def test_a_name_that_is_not_served_is_not_found(url, name):
    status, answer = post(url, "/chat/completions", {"model": name, "messages": messages("pens")})
    assert status == (400 if name == "\ud83d" else 404), answer
    assert "expert" in answer["error"]["message"] or status == 400


def test_a_body_beyond_the_limit_is_too_large(client):
    with pytest.raises(openai.APIStatusError, match="too large") as caught:
        client.completions.create(model="expert", prompt="x" * (9 << 20))
    assert caught.value.status_code == 413


@pytest.mark.parametrize("key", [KEY, "none"], ids=["right", "wrong"])
def test_a_client_that_sends_all_of_a_large_body_first_gets_its_answer(url, key):
    host, port = url.split("/")[2].split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", b"x" * (20 << 20), headers)
    assert connection.getresponse().status == (413 if key == KEY else 401)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"model": "\xff"}', "not UTF-8 text, at byte 12"),
        (b'{"a": ' + b"[" * 100_000, "nested"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "integer"),
        (b"null", "JSON object"),
        (b"{,}", "not JSON, at character 2"),
    ],
)
def test_a_body_that_is_none_is_told_why(url, body, said):
    request = urllib.request.Request(
        f"{url}/completions",
        body,
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    assert caught.value.code == 400
    assert said in json.load(caught.value)["error"]["message"]


@pytest.mark.parametrize("name", ["X-Request-Id", "X-Session-Id", "X-Request-Timeout-Seconds"])
def test_a_header_that_is_not_utf8_is_the_clients_mistake(url, name):
    host, port = url.split("/")[2].split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request(
        "GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}", name: b"caf\xe9"}
    )
    answer = connection.getresponse()
    assert (answer.status, "UTF-8" in json.load(answer)["error"]["message"]) == (400, True)


def health(url):
    try:
        with urllib.request.urlopen(url.replace("/v1", "/health"), timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_needs_no_key_and_names_the_models(url):
    status, body = health(url)
    assert status == 200
    assert '"expert":"ok"' in body
    assert '"improved":"ok"' in body


async def ask_all(url, problems, retries, **drawn):
    async with openai.AsyncOpenAI(
        base_url=url, api_key=KEY, max_retries=retries, timeout=120
    ) as client:

        async def one(index, problem):
            name = ("expert", "improved")[index % 2]
            asked = {"temperature": 0, "max_tokens": NEW_TOKENS} | drawn
            response = await client.chat.completions.create(
                model=name, messages=messages(problem), **asked
            )
            return response.choices[0].message.content

        return await asyncio.gather(*(one(i, p) for i, p in enumerate(problems)))


def test_200_requests_at_once_are_all_answered(url, client, problems):
    many = (problems * 4)[:200]
    said = asyncio.run(ask_all(url, many, retries=0))
    assert len(said) == 200
    assert all(said)
    assert said[:4] == [
        chat(client, ("expert", "improved")[i % 2], many[i]).choices[0].message.content
        for i in range(4)
    ]


def test_seeded_answers_are_drawn_whatever_the_prompts_take(url):
    """More tokens of prompts at once than an engine of a CPU reads in a step."""
    long = [f"{n} pens and {n} pens. " * 40 for n in range(48)]
    drawn = {"temperature": 1, "seed": 3, "max_tokens": 8, "extra_body": {"min_tokens": 2}}
    assert all(asyncio.run(ask_all(url, long, retries=0, **drawn)))


def replica_of(served, name: str) -> psutil.Process:
    title = re.compile(rf"ray::ServeReplica:lr_ray-\w+:LLMServer:{name}")
    (found,) = [
        process
        for process in psutil.Process(served.process.pid).children(recursive=True)
        if title.match((process.cmdline() or [""])[0])
    ]
    return found


def test_a_killed_replica_comes_back_and_no_request_is_lost(served, url):
    many = [row["problem"] for row in embedded.generate("heldout", 400, seed=5)]
    before = asyncio.run(ask_all(url, many[:40], retries=0))
    killed = replica_of(served, "expert")

    async def scenario():
        asking = asyncio.create_task(ask_all(url, many, retries=18))
        await asyncio.sleep(1)
        os.kill(killed.pid, signal.SIGKILL)
        at = time.monotonic()
        return await asking, at

    said, at = asyncio.run(scenario())
    assert all(said)
    assert said[:40] == before
    assert replica_of(served, "expert").pid != killed.pid
    print(f"answers again {time.monotonic() - at:.1f} s after the kill")
    assert health(url)[0] == 200


def test_no_process_reports_usage_where_that_is_off(served):
    processes = psutil.Process(served.process.pid).children(recursive=True)
    titles = [(process.cmdline() or [""])[0] for process in processes]
    assert any(":LLMServer:" in title for title in titles)
    assert not any("TelemetryAgent" in title for title in titles)


def test_the_key_is_in_no_log_and_no_command_line(served):
    processes = psutil.Process(served.process.pid).children(recursive=True)
    lines = [" ".join(process.cmdline()) for process in processes]
    session = next(
        Path(word.partition("=")[2])
        for line in lines
        for word in line.split()
        if word.startswith("--session-dir=") or word.startswith("--session_dir=")
    )
    assert [line for line in lines if KEY in line] == []
    files = [path for path in (session / "logs").rglob("*") if path.is_file()]
    assert len(files) > 10
    files += [
        served.log,
        *served.log.parent.glob("*"),
        *Path(tempfile.gettempdir()).glob("lr_ray-*.log"),
    ]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_requests_under_way_finish_when_the_service_ends(served):
    """Last, as it ends the endpoint."""
    problems = [row["problem"] for row in embedded.generate("heldout", 48, seed=6)]

    async def one(client, index):
        body = {
            "model": ("expert", "improved")[index % 2], "prompt": problems[index], "temperature": 0,
            "max_tokens": 400, "extra_body": {"ignore_eos": True},
        }  # fmt: skip
        if index % 4:
            response = await client.completions.create(**body)
            return response.usage.completion_tokens
        reason = None
        async for chunk in await client.completions.create(**body, stream=True):
            reason = chunk.choices[0].finish_reason or reason
        return reason

    async def scenario():
        async with openai.AsyncOpenAI(
            base_url=served.url, api_key=KEY, max_retries=0, timeout=120
        ) as client:
            asked = [asyncio.create_task(one(client, i)) for i in range(48)]
            await asyncio.sleep(1)
            left = sum(not task.done() for task in asked)
            served.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(openai.APIStatusError):
                while True:  # until it is turned away
                    await client.models.list()
            return left, await asyncio.gather(*asked)

    children = psutil.Process(served.process.pid).children(recursive=True)
    left, said = asyncio.run(scenario())
    assert left > 10
    assert said == [400 if index % 4 else "length" for index in range(48)]
    assert served.end() == 143
    assert re.search(r"ending; waits for \d+ requests? under way", served.log.read_text())
    assert "cut off" not in served.log.read_text()
    psutil.wait_procs(children, timeout=15)
    assert not [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
