"""How far a model moved, on the embedded pair in the places of expert and improved."""

import math
import shutil

import pyarrow as pa
import pytest
import torch

from lr_ray.audit.drift import _texts, drift
from lr_ray.config import Evaluation, merge, read_tree, resolve
from lr_ray.embedded import amateur_path, expert_path, generate
from lr_ray.evaluation.paper import turns
from lr_ray.method.oracle import load, next_token_logprobs
from lr_ray.models.models import load_tokenizer, render_prompt
from lr_ray.pipeline.stages import add_drift
from lr_ray.run.stages import digests
from lr_ray.run.store import Run

EXPERT, AMATEUR = str(expert_path()), str(amateur_path())
PROBLEMS = [problem["problem"] for problem in generate("heldout", 6)]
RIGHT = "The answer is 8."


def table(**right: list[bool]) -> pa.Table:
    """Each label's answers, all with the same words."""
    columns: dict[str, list] = {"problem": PROBLEMS, "sample": [0] * len(PROBLEMS)}
    for label, correct in right.items():
        columns |= {f"{label}_completion": [RIGHT] * len(PROBLEMS), f"{label}_correct": correct}
        columns[f"{label}_finish_reason"] = ["stop"] * len(PROBLEMS)
    return pa.table(columns)


@pytest.fixture(scope="module")
def found():
    right = {"expert": [True, False] * 3, "improved": [True] * 6}
    paths = {"expert": EXPERT, "improved": AMATEUR}
    return drift(paths, table(**right), Evaluation(drift=1000))


def test_kl_and_perplexity_are_those_of_one_forward_for_each_token(found):
    expert, other, tokenizer = load(EXPERT), load(AMATEUR), load_tokenizer(EXPERT)
    kl, negative, count = 0.0, 0.0, 0
    for text in _texts():
        ids = tokenizer(text)["input_ids"]
        assert len(ids) < 512  # the whole text fits the embedded models
        count += len(ids) - 1
    ids = tokenizer(_texts()[0])["input_ids"]
    with torch.inference_mode():
        for t in range(1, len(ids)):
            log_p, log_q = (next_token_logprobs(model, ids[:t]) for model in (expert, other))
            kl += (log_p.exp() * (log_p - log_q)).sum().item()
            negative -= log_q[ids[t]].item()
    models = found["models"]
    assert found["texts"] == count
    assert models["expert"]["kl"] == 0
    # The first text alone, by figures of the first text alone.
    alone = _first_text(EXPERT, AMATEUR)
    assert alone["kl"] == pytest.approx(kl / (len(ids) - 1), rel=1e-4)
    assert alone["perplexity"] == pytest.approx(math.exp(negative / (len(ids) - 1)), rel=1e-4)


def _first_text(expert: str, other: str) -> dict:
    from lr_ray.audit import drift as module

    ids = load_tokenizer(expert)(_texts()[0])["input_ids"]
    with torch.inference_mode():
        rows, _ = module._texts_of(load(expert), [(ids, 1)], [])
        return module._texts_of(load(other), [(ids, 1)], rows)[1]


def test_right_answers_are_read_by_both_models_behind_their_prompt(found):
    tokenizer, model = load_tokenizer(EXPERT), load(EXPERT)
    answer = tokenizer(RIGHT)["input_ids"]
    negative, spread = [], []
    for problem in PROBLEMS:
        ids = [*render_prompt(tokenizer, problem, None), *answer]
        with torch.inference_mode():
            rows = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        rows = rows[-len(answer) - 1 : -1]
        negative.append(-rows[range(len(answer)), answer].sum().item())
        spread.append(-(rows.exp() * rows).sum().item())
    expert = found["models"]["expert"]
    own = math.exp(sum(negative[::2]) / (3 * len(answer)))
    assert expert["right_perplexity"]["expert"] == pytest.approx(own, rel=1e-4)
    others = math.exp(sum(negative) / (6 * len(answer)))
    assert expert["right_perplexity"]["improved"] == pytest.approx(others, rel=1e-4)
    assert expert["entropy"] == pytest.approx(sum(spread) / (6 * len(answer)), rel=1e-4)
    assert found["answers"] == {"expert": 6 * len(answer), "improved": 6 * len(answer)}


def test_no_more_tokens_of_answers_are_read_than_asked_for():
    paths = {"expert": EXPERT, "improved": EXPERT}
    wrong = {"expert": [False] * 6, "improved": [True] * 6}
    found = drift(paths, table(**wrong), Evaluation(drift=9))
    assert found["answers"] == {"expert": 9, "improved": 9}
    improved = found["models"]["improved"]
    assert improved["kl"] == 0
    assert improved["right_perplexity"]["expert"] is None
    assert improved["entropy"] == pytest.approx(found["models"]["expert"]["entropy"])


def test_an_evaluated_run_gets_its_figures_without_being_asked_again(tmp_path):
    run, config = Run(str(tmp_path)), resolve(read_tree("demo"))
    shutil.copytree(AMATEUR, tmp_path / "model")
    run.write_table("evaluation/demo.parquet", table(expert=[False] * 6, improved=[True] * 6))
    summary = {"accuracy": {"demo": {}}}
    add_drift(run, config, summary, print)
    assert "drift" not in summary  # as nobody asked
    asked = resolve(merge(config.model_dump(mode="json"), {"evaluation": {"drift": 50}}))
    assert digests(asked, {}) == digests(config, {})
    assert add_drift(run, asked, summary, print)
    assert run.read_json("summary.json")["drift"]["models"]["improved"]["kl"] > 0.1
    shutil.rmtree(tmp_path / "model")
    assert not add_drift(run, asked, summary, print)
    fewer = resolve(merge(config.model_dump(mode="json"), {"evaluation": {"drift": 9}}))
    shutil.copytree(AMATEUR, tmp_path / "model")
    assert add_drift(run, fewer, summary, print)
    assert summary["drift"]["answers"] == {"expert": 9, "improved": 9}


def test_answers_under_the_papers_protocol_are_read_behind_its_prompts():
    tokenizer, model = load_tokenizer(EXPERT), load(EXPERT)
    paper = {"expert_prompt": "completion", "stop_token_ids": [2]}
    asked = Evaluation.model_validate({"drift": 1000, "protocol": "paper", "paper": paper})
    right = {"expert": [True, *[False] * 5], "improved": [True, *[False] * 5]}
    found = drift({"expert": EXPERT, "improved": EXPERT}, table(**right), asked)
    answer = tokenizer(RIGHT)["input_ids"]
    raw = tokenizer(f"Question: {PROBLEMS[0]}\nAnswer: ")["input_ids"]
    chat = tokenizer.apply_chat_template(turns(PROBLEMS[0]), add_generation_prompt=True)[
        "input_ids"
    ]
    for label, prompt in (("expert", raw), ("improved", chat)):
        with torch.inference_mode():
            rows = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        rows = rows[-len(answer) - 1 : -1]
        negative = -rows[range(len(answer)), answer].mean().item()
        perplexity = found["models"]["expert"]["right_perplexity"][label]
        assert perplexity == pytest.approx(math.exp(negative), rel=1e-4)
