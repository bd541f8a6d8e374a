"""The amateur's log-probabilities through vLLM against transformers, for each architecture that can score.

Each model is asked through two engines: one that splits prompts over 64-token steps, and one that does not.
"""

import gc
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from lr_ray.config import read_tree, resolve
from lr_ray.embedded import generate
from lr_ray.engines import vllm
from lr_ray.models.models import context_length, load_tokenizer, render_prompt, vocabulary_rows
from lr_ray.run.schemas import lists
from lr_ray.sampling import amateur

TOLERANCE = 2e-4  # nats
CHUNK = 64
ENGINES = {
    "chunked": {
        "enable_chunked_prefill": True,
        "max_num_batched_tokens": CHUNK,
        "max_num_seqs": 16,
    },
    "whole": {"enable_chunked_prefill": False},
}
# Rows that vLLM pads to a multiple of 64, so that the first unknown ids have padding to hit.
CONFIGS = {
    "llama-untied": partial(LlamaConfig, vocab_size=5003, tie_word_embeddings=False),
    "qwen2": partial(Qwen2Config, vocab_size=30011, tie_word_embeddings=True),
    "qwen3": partial(Qwen3Config, vocab_size=2029, tie_word_embeddings=True, head_dim=64),
}
ROOT = Path(__file__).parents[2]
# Tokens of prompt and completion; the scorer's own chunks are 1024 rows.
LENGTHS = [(5, 1), (1, 9), (130, 70), (40, 130), (70, 20), (63, 2), (64, 65), (30, 1300)]
REAL_STRETCHES = [(0, 1), (1, 10), (10, 80), (80, 210), (30, 50), (140, 205), (0, 210)]


@dataclass
class Scored:
    """One model's requests and answers; an array each, in float64 and float32."""

    vocabulary: int
    requests: pa.Table
    logit_std: float
    expected: list[np.ndarray]
    engines: dict[str, list[np.ndarray]]


def score(model: str, requests: pa.Table) -> dict[str, list[np.ndarray]]:
    """Each engine's answers."""
    answers, start_engine = {}, vllm.start_engine
    for name, options in ENGINES.items():
        vllm.start_engine = partial(start_engine, **options)
        config = resolve(read_tree("demo"))
        scorer = amateur.AmateurScorer(model, config, context_length(model), journal=None)
        scheduler = scorer.engine.llm.llm_engine.vllm_config.scheduler_config
        assert {option: getattr(scheduler, option) for option in options} == options
        answers[name] = scorer.score(requests, range(requests.num_rows))
        del scorer
        gc.collect()
    return answers


def random_model(config, folder: Path) -> str:
    """Seeded weights, large enough that attention and next-token distributions are far from flat."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config(
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=2048,
        ),
        dtype=torch.float32,
    )
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.normal_(weight, 1, 0.2)
        else:
            torch.nn.init.normal_(weight, std=0.15 if "layers" in name else 0.3)
    model.save_pretrained(folder)
    return str(folder)


def random_tokens(vocabulary: int) -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(1)
    draw = partial(rng.integers, vocabulary)
    return [(draw(size=p).tolist(), draw(size=c).tolist()) for p, c in LENGTHS]


def real_tokens(model: str) -> list[tuple[list[int], list[int]]]:
    """Chat prompts of word problems, as in use; the completions are stretches of the license."""
    tokenizer = load_tokenizer(model)
    text = tokenizer((ROOT / "LICENSE").read_text())["input_ids"]
    problems = [p["problem"] for p in generate("sampling", len(REAL_STRETCHES))]
    return [
        (render_prompt(tokenizer, problem, None), text[start:stop])
        for problem, (start, stop) in zip(problems, REAL_STRETCHES, strict=True)
    ]


def ask(tokens: list[tuple[list[int], list[int]]], vocabulary: int) -> pa.Table:
    """Columns that the scorer reads: per step the next token, some others and ids without a row."""
    rng = np.random.default_rng(2)
    counts, ids = [], []
    for _, completion in tokens:
        steps = []
        for step, token in enumerate(completion):
            others = rng.integers(vocabulary, size=rng.integers(60))
            beyond = [vocabulary, vocabulary + 40][: step % 3]
            steps.append(rng.permutation([token, *others, *beyond]))
        steps[-1] = np.arange(vocabulary + 1)
        counts.append([len(step) for step in steps])
        ids.append(np.concatenate(steps))
    prompts, completions = zip(*tokens, strict=True)
    return pa.table(
        {
            "prompt_token_ids": lists(prompts, pa.int32()),
            "completion_token_ids": lists(completions, pa.int32()),
            "counts": lists(counts, pa.int32()),
            "topk_token_ids": lists(ids, pa.int32()),
        }
    )


def by_transformers(path: str, requests: pa.Table) -> tuple[list[np.ndarray], float]:
    """Log-softmax over the whole vocabulary, one sequence a forward; the logits' spread.

    In float64: in float32 transformers is itself up to 1.2e-4 off on the real model.
    """
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    expected, spreads = [], []
    for row in requests.to_pylist():
        prompt, completion = row["prompt_token_ids"], row["completion_token_ids"]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + completion[:-1]])).logits[0, len(prompt) - 1 :]
        logprobs = torch.nn.functional.pad(logits.log_softmax(-1), (0, 64), value=-torch.inf)
        steps = torch.repeat_interleave(torch.tensor(row["counts"]))
        expected.append(logprobs[steps, torch.tensor(row["topk_token_ids"])].numpy())
        spreads.append(logits.std(-1).mean().item())
    return expected, float(np.mean(spreads))


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ProcessPoolExecutor]:
    """A process for engines: they leave memory and variables behind."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        yield process


def measure(
    elsewhere: ProcessPoolExecutor, path: str, tokens: list[tuple[list[int], list[int]]]
) -> Scored:
    vocabulary = vocabulary_rows(path)
    requests = ask(tokens, vocabulary)
    requests = pa.concat_tables([requests, requests.slice(2, 1)])  # one trajectory twice
    expected, spread = by_transformers(path, requests)
    engines = elsewhere.submit(score, path, requests).result()
    return Scored(vocabulary, requests, spread, expected, engines)


@pytest.fixture(scope="module", params=CONFIGS)
def random_scored(request, elsewhere, tmp_path_factory) -> Scored:
    path = random_model(CONFIGS[request.param], tmp_path_factory.mktemp(request.param))
    return measure(elsewhere, path, random_tokens(vocabulary_rows(path)))


@pytest.fixture(scope="module")
def real_scored(elsewhere, smollm2) -> Scored:
    _, path = smollm2
    return measure(elsewhere, path, real_tokens(path))


@pytest.mark.parametrize("engine", ENGINES)
def test_random_weights_of_each_architecture_score_as_in_transformers(random_scored, engine):
    assert 2 < random_scored.logit_std < 4  # nats: a flat distribution would hide a wrong row
    assert_same(random_scored, engine)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_real_weights_and_text_score_as_in_transformers(real_scored, engine):
    assert_same(real_scored, engine)


def assert_same(scored: Scored, engine: str) -> None:
    """All requests agree, and tokens that the model has no row for are impossible."""
    largest = 0.0
    for row, ours, expected in zip(
        scored.requests.to_pylist(), scored.engines[engine], scored.expected, strict=True
    ):
        known = np.array(row["topk_token_ids"]) < scored.vocabulary
        assert ours.dtype == np.float32
        assert ours.shape == known.shape
        assert (ours[~known] == -np.inf).all()
        assert np.isfinite(ours[known]).all()
        gap = np.abs(ours[known] - expected[known])
        np.testing.assert_allclose(ours[known], expected[known], rtol=0, atol=TOLERANCE)
        largest = max(largest, gap.max())
        last = ours[-scored.vocabulary - 1 : -1].astype(np.float64)  # the whole vocabulary
        assert np.exp(last).sum() == pytest.approx(1, abs=1e-4)
    print(f"largest difference {largest:.1e} nats, {engine}")
