import socket

import openai
import pytest

from lr_ray import embedded, serving
from lr_ray.config import Evaluation, Serving
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation.grading import is_correct
from lr_ray.evaluation.stage import evaluate
from lr_ray.models import stop_token_ids

MODELS = {"expert": str(embedded.expert_path()), "improved": str(embedded.amateur_path())}
NEW_TOKENS = 64


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def settings():
    return Serving(gpus=0, cpus=0.5, dtype="float32", max_model_len=512, port=free_port())


@pytest.fixture(scope="module")
def url(ray_cluster, settings):
    serving.check_port(settings)
    yield serving.start(MODELS, settings)
    serving.stop()
    serving.check_port(settings)


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def problems():
    return [row["problem"] for row in embedded.generate("heldout", 5, seed=3)]


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


def transformers_greedy(path, problem):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    prompt = tokenizer.apply_chat_template(
        messages(problem), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    output = model.generate(**prompt, do_sample=False, max_new_tokens=NEW_TOKENS)
    return tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_endpoint_is_on_the_configured_address(url, settings):
    assert url == f"http://127.0.0.1:{settings.port}/v1"


def test_a_taken_port_is_named_before_anything_starts(url, settings):
    with pytest.raises(UserError, match=rf"^serving\.port: {settings.port} is taken"):
        serving.check_port(settings)


def test_a_foreign_address_is_named():
    with pytest.raises(UserError, match=r"^serving\.host: .*192\.0\.2\.1"):
        serving.check_port(Serving(host="192.0.2.1", port=free_port()))


def test_serve_that_runs_already_is_left_alone(url, settings, client):
    other = settings.model_copy(update={"port": free_port()})
    with pytest.raises(StageError, match="already runs"):
        serving.start(MODELS, other)
    assert {model.id for model in client.models.list()} == set(MODELS)


def test_both_models_are_listed(client):
    assert {model.id for model in client.models.list()} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_chat_is_the_greedy_completion_of_transformers(client, problems, name):
    for problem in problems:
        choice = chat(client, name, problem).choices[0]
        assert choice.message.content == transformers_greedy(MODELS[name], problem)
        assert choice.finish_reason == "stop"


def test_the_models_differ(client, problems):
    said = {
        name: [chat(client, name, p).choices[0].message.content for p in problems]
        for name in MODELS
    }
    assert said["expert"] != said["improved"]


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
    assert (
        completion.choices[0].text == chat(client, "expert", problems[0]).choices[0].message.content
    )


def test_max_tokens_cuts_and_says_so(client, problems):
    response = client.chat.completions.create(
        model="expert", messages=messages(problems[0]), temperature=0, max_tokens=2
    )
    assert response.choices[0].finish_reason == "length"
    assert response.usage.completion_tokens == 2


def test_unknown_model_is_not_found(client, problems):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=messages(problems[0]))


def test_evaluation_grades_what_both_models_said(url, client):
    evaluation = Evaluation(max_problems=40, max_new_tokens=NEW_TOKENS, concurrency=16, seed=3)
    progress = []
    results = evaluate(
        url,
        {name: name for name in MODELS},
        evaluation,
        lambda done, total: progress.append((done, total)),
        stop_token_ids(MODELS["expert"]),
    )
    table, summary = results["demo"]
    assert progress == [(n, 80) for n in range(1, 81)]
    rows = table.to_pylist()
    assert [(r["problem_id"], r["problem"], r["expected"]) for r in rows] == [
        (p["problem_id"], p["problem"], p["answer"]) for p in embedded.generate("heldout", 40, 3)
    ]
    for name in MODELS:
        for row in rows[:3]:
            said = chat(client, name, row["problem"]).choices[0].message.content
            assert row[f"{name}_completion"] == said
        verdicts = [is_correct(r["expected"], r[f"{name}_answer"], "demo") for r in rows]
        assert [r[f"{name}_correct"] for r in rows] == verdicts
        assert summary[name] == sum(verdicts) / 40
    assert 0 < summary["expert"] < 1
    assert summary["problems"] == 40
    low, high = summary["difference_ci95"]
    assert low <= summary["difference"] <= high


def test_evaluation_names_the_model_that_is_not_there(url):
    names = {"expert": "expert", "improved": "nobody"}
    with pytest.raises(StageError, match="nobody"):
        evaluate(url, names, Evaluation(max_problems=2, max_new_tokens=8))
