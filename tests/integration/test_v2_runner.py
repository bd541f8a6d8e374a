"""Expert and scorer under the model runner that vLLM uses on GPUs, against transformers.

All other tests run the runner of CPUs. Needs the triton wheel in a folder of its own
(requirements/triton.txt; installed by `make test`).
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lr_ray.embedded import amateur_path, expert_path
from lr_ray.engines.vllm import on_cpu
from lr_ray.models.files import vocabulary_rows
from tests.integration.test_scorer import ROOT, ask
from tests.integration.v2_runner import DTYPES, MODES, NEW_TOKENS, TOP_K

TRITON = Path(sys.prefix, "triton")
MODELS = {"expert": str(expert_path()), "amateur": str(amateur_path())}
TOLERANCE = 1e-4  # nats, in float32
# Tokens of prompt and completion.
LENGTHS = [(20, 9), (5, 1), (41, 30), (64, 65), (90, 20), (1, 12)]


def tokens() -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(1)
    rows = min(map(vocabulary_rows, MODELS.values()))
    return [
        (rng.integers(rows, size=p).tolist(), rng.integers(rows, size=c).tolist())
        for p, c in LENGTHS
    ]


@cache
def model_of(role: str, dtype: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(MODELS[role], dtype=getattr(torch, dtype)).eval()


@cache
def by_transformers(role: str, dtype: str, prompt: tuple[int, ...], completion: tuple[int, ...]):
    """[T, V] log-probabilities at the steps of the completion, normalised in float64."""
    with torch.inference_mode():
        tokens = torch.tensor([prompt + completion[:-1]])
        logits = model_of(role, dtype)(tokens).logits[0, len(prompt) - 1 :]
    return logits.double().log_softmax(-1).numpy()


@pytest.fixture(scope="module")
def asked():
    pairs = tokens()
    pairs.append(pairs[2])  # the second time its prefix is in the cache
    return {
        "expert": [prompt for prompt, _ in pairs],
        "amateur": ask(pairs, vocabulary_rows(MODELS["amateur"])),
    }


@pytest.fixture(scope="module")
def answers(asked, tmp_path_factory):
    """By role, then by data type and mode; a process a role, both at once."""
    if not on_cpu():
        pytest.skip("the installed vLLM is not the CPU build")
    if not TRITON.is_dir():
        pytest.skip("needs requirements/triton.txt; see make test")
    folder = tmp_path_factory.mktemp("v2")
    # As where lr_ray is on the path, and not installed for vLLM to find by its entry point.
    variables = os.environ | {"PYTHONPATH": f"{TRITON}:{ROOT}", "VLLM_PLUGINS": ""}
    script = str(Path(__file__).with_name("v2_runner.py"))
    processes = {}
    for role, wanted in asked.items():
        requests, found = folder / f"{role}-requests", folder / f"{role}-answers"
        requests.write_bytes(pickle.dumps((role, MODELS[role], wanted)))
        command = [sys.executable, script, str(requests), str(found)]
        processes[role] = subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    outputs = {role: process.communicate()[0] for role, process in processes.items()}
    for role, process in processes.items():
        assert process.returncode == 0, outputs[role][-4000:]
    return {role: pickle.loads((folder / f"{role}-answers").read_bytes()) for role in asked}


def steps_of(role: str, asked, answers) -> Iterator[tuple[list[int], list[int], Any, Any, Any]]:
    """Prompt, completion, and the step, token and log-probability of each number in the answer."""
    if role == "expert":
        for prompt, (completion, counts, ids, values) in zip(asked, answers, strict=True):
            yield prompt, completion, np.repeat(np.arange(len(counts)), counts), ids, values
        return
    for row, values in zip(asked.to_pylist(), answers, strict=True):
        steps = np.repeat(np.arange(len(row["counts"])), row["counts"])
        ids = np.array(row["topk_token_ids"])
        known = ids < vocabulary_rows(MODELS[role])
        assert (values[~known] == -np.inf).all()
        prompt, completion = row["prompt_token_ids"], row["completion_token_ids"]
        yield prompt, completion, steps[known], ids[known], values[known]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("role", MODELS)
def test_log_probabilities_are_those_of_transformers(answers, asked, role, dtype, mode):
    ours, theirs = [], []
    for prompt, completion, steps, ids, values in steps_of(
        role, asked[role], answers[role][dtype, mode]
    ):
        tokens = tuple(prompt), tuple(completion)
        exact = by_transformers(role, "float64", *tokens)[steps, ids]
        own = by_transformers(role, dtype, *tokens)[steps, ids]
        ours.append(np.abs(values - exact))
        theirs.append(np.abs(own - exact))
    ours, theirs = np.concatenate(ours), np.concatenate(theirs)
    print(
        f"{role} {dtype} {mode}: {ours.max():.1e} nats, mean {ours.mean():.1e}; "
        f"transformers {theirs.max():.1e}, mean {theirs.mean():.1e}"
    )
    if dtype == "float32":
        assert ours.max() < TOLERANCE
    else:  # as far from exact arithmetic as transformers in bfloat16, whose rounding is another
        assert ours.max() < 2 * theirs.max()
        assert ours.mean() < 1.5 * theirs.mean()


@pytest.mark.parametrize("mode", MODES)
def test_the_expert_is_greedy_and_names_the_most_probable_tokens(answers, asked, mode):
    for prompt, (completion, counts, ids, values) in zip(
        asked["expert"], answers["expert"]["float32", mode], strict=True
    ):
        exact = by_transformers("expert", "float64", tuple(prompt), tuple(completion))
        assert completion == exact.argmax(1).tolist()
        assert len(counts) <= NEW_TOKENS
        ends = np.cumsum(counts)
        for step, (end, count) in enumerate(zip(ends, counts, strict=True)):
            assert count >= TOP_K
            listed = values[end - count : end]
            assert (np.diff(listed) <= 0).all()
            assert ids[end - count] == completion[step]
            assert listed[-1] > np.sort(exact[step])[-count] - TOLERANCE
