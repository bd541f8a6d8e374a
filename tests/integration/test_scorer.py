"""The amateur's log-probabilities through vLLM against transformers in float64, an architecture a row.

Each model is asked through two engines: one that splits prompts over 64-token steps, and one that does not.
`pytest -s -m "long or not long" tests/integration/test_scorer.py` prints the whole table.
"""

import gc
import json
import multiprocessing
import shutil
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
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from lr_ray.config import Place, Pool, read_tree, resolve
from lr_ray.embedded import amateur_path, expert_path, generate
from lr_ray.engines import score as score_alone
from lr_ray.engines import vllm
from lr_ray.errors import UserError
from lr_ray.models.architectures import scorable
from lr_ray.models.files import architecture, vocabulary_rows
from lr_ray.models.models import context_length, load_tokenizer, render_prompt
from lr_ray.run.schemas import lists
from lr_ray.sampling import amateur
from recipes import gemma3

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
# Rows that vLLM pads to a multiple of 64, so that the first unknown ids have padding to hit. Windows
# are shorter than the longest sequences, and scales and caps change the logits by much.
NO_TOKENS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}  # beyond the rows
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
CONFIGS = {
    "llama-untied": partial(LlamaConfig, vocab_size=5003, tie_word_embeddings=False),
    "qwen2": partial(Qwen2Config, vocab_size=30011, tie_word_embeddings=True),
    "qwen3": partial(Qwen3Config, vocab_size=2029, tie_word_embeddings=True, head_dim=64),
    "gemma2": partial(
        Gemma2Config, vocab_size=2029, head_dim=32, query_pre_attn_scalar=32, sliding_window=96,
        layer_types=LAYERS, attn_logit_softcapping=3.0, final_logit_softcapping=6.0,
    ),
}  # fmt: skip
MORE = {
    "mistral": partial(
        MistralConfig, vocab_size=2029, head_dim=32, sliding_window=96, tie_word_embeddings=False
    ),
    "gemma3": partial(
        Gemma3TextConfig, vocab_size=2029, head_dim=32, query_pre_attn_scalar=32, sliding_window=96,
        layer_types=LAYERS,
    ),
    "olmo2": partial(Olmo2Config, vocab_size=3001, tie_word_embeddings=False, **NO_TOKENS),
    "phi3": partial(Phi3Config, vocab_size=2029, **NO_TOKENS),
    # The head has a bias. vLLM's class knows one inner size, and no shared heads.
    "phi": partial(
        PhiConfig, vocab_size=2029, intermediate_size=256, num_key_value_heads=2, **NO_TOKENS
    ),
    "gpt-neox": partial(GPTNeoXConfig, vocab_size=2029, **NO_TOKENS),
    "gpt2": partial(
        GPT2Config, vocab_size=2029, n_embd=64, n_head=2, n_layer=3, n_positions=2048, **NO_TOKENS
    ),
    "qwen3-moe": partial(
        Qwen3MoeConfig, vocab_size=2029, head_dim=32, num_experts=8, num_experts_per_tok=2,
        moe_intermediate_size=32, norm_topk_prob=True,
    ),
    "cohere": partial(CohereConfig, vocab_size=2029, logit_scale=1.4, **NO_TOKENS),
    "granite": partial(
        GraniteConfig, vocab_size=2029, logits_scaling=0.8, residual_multiplier=0.5,
        embedding_multiplier=2.0, attention_multiplier=0.2, tie_word_embeddings=True,
    ),
}  # fmt: skip
TABLE = [*CONFIGS, *(pytest.param(name, marks=pytest.mark.long) for name in MORE)]
ROOT = Path(__file__).parents[2]
# Tokens of prompt and completion; the scorer's own chunks are 1024 rows.
LENGTHS = [(5, 1), (1, 9), (130, 70), (40, 130), (70, 20), (63, 2), (64, 65), (30, 1300)]
REAL_STRETCHES = [(0, 1), (1, 10), (10, 80), (80, 210), (30, 50), (140, 205), (0, 210)]


@dataclass
class Scored:
    """One model's requests and answers; an array each, in float64 and float32."""

    name: str
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
        scorer = amateur.AmateurScorer(
            model, config, min(context_length(model), 4096), journal=None
        )
        scheduler = scorer.engine.llm_engine.vllm_config.scheduler_config
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
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=2048,
            **{"intermediate_size": 160, "num_key_value_heads": 1, **config.keywords},
        ),
        dtype=torch.float32,
    )
    for name, weight in model.named_parameters():
        if name.endswith("weight") and weight.ndim == 1:  # a norm's
            mean = weight.mean().item()  # 1, or 0 where the model adds 1
            torch.nn.init.normal_(weight, mean, 0.2)
        else:
            torch.nn.init.normal_(weight, std=0.15 if "layers" in name or ".h." in name else 0.3)
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

    In float64: in float32 transformers is itself up to 1.2e-4 off on the real model. Only
    its plain attention caps scores, and only its plain experts take float64.
    """
    capped = architecture(path) == "Gemma2ForCausalLM"
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=torch.float64,
        attn_implementation="eager" if capped else "sdpa",
        experts_implementation="eager",
    ).eval()
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
    with a_process() as process:
        yield process


def a_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def measure(
    elsewhere: ProcessPoolExecutor, path: str, tokens: list[tuple[list[int], list[int]]]
) -> Scored:
    vocabulary = vocabulary_rows(path)
    requests = ask(tokens, vocabulary)
    requests = pa.concat_tables([requests, requests.slice(2, 1)])  # one trajectory twice
    expected, spread = by_transformers(path, requests)
    engines = elsewhere.submit(score, path, requests).result()
    return Scored(architecture(path), vocabulary, requests, spread, expected, engines)


@pytest.fixture(scope="module", params=TABLE)
def random_scored(request, elsewhere, tmp_path_factory) -> Scored:
    config = (CONFIGS | MORE)[request.param]
    path = random_model(config, tmp_path_factory.mktemp(request.param))
    tokens = random_tokens(vocabulary_rows(path))
    if request.param in CONFIGS:
        return measure(elsewhere, path, tokens)
    with a_process() as own:  # vLLM's groups of a dense model lack those of experts
        return measure(own, path, tokens)


def written_tokens(path: str) -> list[tuple[list[int], list[int]]]:
    """Texts that a model without a tokenizer writes itself, drawn at temperature 1."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    torch.manual_seed(0)
    starts = torch.randint(5000, (len(REAL_STRETCHES), 1)) + 1000
    given = torch.cat([torch.full_like(starts, model.config.bos_token_id), starts], 1)
    longest = max(stop for _, stop in REAL_STRETCHES)
    texts = model.generate(
        given, do_sample=True, top_k=0, min_new_tokens=longest, max_new_tokens=longest
    )
    return [
        (text[: start + 2], text[start + 2 : stop + 2])
        for text, (start, stop) in zip(texts.tolist(), REAL_STRETCHES, strict=True)
    ]


@pytest.fixture(scope="module", params=["smollm2", pytest.param("gemma3", marks=pytest.mark.long)])
def real_scored(request, elsewhere) -> Scored:
    if request.param == "smollm2":
        _, path = request.getfixturevalue("smollm2")
        return measure(elsewhere, path, real_tokens(path))
    try:
        path = str(gemma3.make())
    except (ImportError, OSError) as error:
        pytest.skip(f"needs Gemma 3 270M: {error}")
    with a_process() as own:
        return measure(own, path, written_tokens(path))


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
    print(f"\n{scored.name:20} {engine:8} largest difference {largest:.1e} nats", end="")


def test_the_function_alone_scores_one_sequence_or_many(elsewhere):
    path = str(amateur_path())
    rows, room = vocabulary_rows(path), context_length(path)
    rng = np.random.default_rng(3)
    long, short = rng.integers(rows, size=room).tolist(), rng.integers(rows, size=7).tolist()
    same, last = [5, rows - 1, rows], rng.integers(rows, size=(2, 4))
    call = partial(elsewhere.submit, score_alone)
    one = call(path, long, same).result()
    many = call("embedded:amateur", [short, long, [3]], [last, same, []]).result()
    assert [(scores.dtype, scores.shape) for scores in [one, *many]] == [
        (np.float32, (room, 3)), (np.float32, (2, 4)), (np.float32, (room, 3)), (np.float32, (1, 0)),
    ]  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    with torch.inference_mode():
        exact_long, exact_short = (
            model(torch.tensor([tokens])).logits[0].log_softmax(-1).numpy()
            for tokens in (long, short)
        )
    np.testing.assert_allclose(one[:, :2], exact_long[:, same[:2]], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(many[1][:, :2], exact_long[:, same[:2]], rtol=0, atol=TOLERANCE)
    expected = np.take_along_axis(exact_short[-2:], last, 1)
    np.testing.assert_allclose(many[0], expected, rtol=0, atol=TOLERANCE)
    assert (one[:, 2] == -np.inf).all()


@pytest.mark.parametrize(
    ("model", "token_ids", "ids", "match"),
    [
        ("embedded:amateur", [1, 2], [-1], "sequence 0: ids must be from 0 to"),
        ("embedded:amateur", [1, 10**6], [1], "sequence 0: token_ids must be from 0 to"),
        ("embedded:amateur", [1] * 10**5, [1], "has 100000 tokens; the model reads"),
        ("embedded:amateur", [[1], [1]], [[[1], [2]], [1]], "ids of 2 positions; it has 1 token"),
        ("embedded:amateur", [[1], [1]], [[1]], "2 sequences, but ids of 1"),
        ("no/such/model", [1], [1], "score: model: no/such/model: no such directory"),
    ],
)
def test_the_function_alone_names_what_does_not_fit(model, token_ids, ids, match):
    with pytest.raises(UserError, match=match):
        score_alone(model, token_ids, ids)


def classes() -> tuple[list[str], list[str]]:
    """Accepted architectures whose class in vLLM imports here, and those of them without logits."""
    from vllm.model_executor.models.interfaces_base import is_text_generation_model
    from vllm.model_executor.models.registry import ModelRegistry

    loaded = {name: ModelRegistry._try_load_model_cls(name) for name in sorted(scorable())}
    here = {name: found for name, found in loaded.items() if found is not None}
    return list(here), [name for name, found in here.items() if not is_text_generation_model(found)]


@pytest.mark.long
def test_every_accepted_architecture_has_a_class_that_computes_logits(elsewhere):
    here, without = elsewhere.submit(classes).result()
    print(f"\n{len(here)} of {len(scorable())} classes can be imported here")
    assert without == []
    assert len(here) > 100


def test_a_cache_too_small_for_a_sequence_is_told_by_the_settings_names(elsewhere, tmp_path):
    """A cache of 1 GiB on CPUs has room for 350 000 tokens of the embedded expert."""
    tokens, model = 1_000_000, tmp_path / "model"
    shutil.copytree(expert_path(), model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": tokens}))
    start = elsewhere.submit(vllm.start_engine, str(model), Pool(), Place(gpus=0), tokens)
    told = "one sequence of 1000000 tokens; give a smaller sampling.max_model_len, or a larger VLLM_CPU"
    with pytest.raises(ValueError, match=told):
        start.result()
