"""The converted SmolLM2 pair: judged by what it reads and writes, and by how far the two models differ."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lr_ray.audit.audit import audit
from lr_ray.config import Models, Place, Pool
from lr_ray.engines.loop import EngineLoop
from lr_ray.engines.vllm import Steps, start_engine
from lr_ray.models.models import check_pair, render_prompt, stop_token_ids
from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run
from lr_ray.sampling.sample import sample
from lr_ray.training.train import train
from tests.integration.conftest import demo_config

pytestmark = pytest.mark.slow

PROBLEMS = {
    "Anna has 5 apples and gets 4 more. How many apples does she have?": "5 + 4 = 9",
    "A box holds 6 eggs. How many eggs are in 4 boxes?": "6 x 4 = 24",
    "What is the capital of France?": "The capital of France is Paris.<|im_end|>",
}
PROSE = (
    "The sun rises in the east and sets in the west. Every morning, people wake up, eat breakfast "
    "and go to work or to school. In the evening they come home and eat dinner with their families."
)


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return AutoTokenizer.from_pretrained(smollm2[0])


@pytest.fixture(scope="module")
def models(smollm2):
    return [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in smollm2
    ]


@pytest.fixture(scope="module")
def answers(tokenizer, models):
    """Greedy sequences of the expert and where their completions start."""
    sequences = []
    for problem in PROBLEMS:
        prompt = render_prompt(tokenizer, problem, None)
        out = models[0].generate(torch.tensor([prompt]), max_new_tokens=96)
        sequences.append((out, len(prompt)))
    return sequences


def test_template_is_chatml_with_the_default_system_turn(tokenizer):
    assert tokenizer.decode(render_prompt(tokenizer, "Hi?", None)) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(render_prompt(tokenizer, "Hi?", "Be brief.")) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "text", ["1234 + 5.6 = 1239.6\n\n\tyes", "naïve 日本語 😀 x² ½ ٣", "  a  b\r\n"]
)
def test_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_and_special_tokens_are_single_ids(tokenizer, smollm2):
    assert tokenizer.convert_ids_to_tokens(tokenizer("x=1024")["input_ids"])[2:] == list("1024")
    special = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    assert {token: tokenizer(token)["input_ids"] for token in special} == {
        token: [i] for token, i in special.items()
    }
    assert stop_token_ids(smollm2[0]) == [special["<|im_end|>"]]


def test_answers_are_coherent(tokenizer, answers):
    for (out, start), expected in zip(answers, PROBLEMS.values(), strict=True):
        assert expected in tokenizer.decode(out[0, start:])


def test_plain_english_is_expected_and_less_so_by_the_amateur(tokenizer, models):
    ids = tokenizer(PROSE, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        expert, amateur = (model(ids, labels=ids).loss.item() for model in models)
    assert expert < 2.5  # nats a token; a wrong weight, rotation or merge gives more than 5
    assert expert < amateur < expert + 1


def test_amateur_fits_the_expert_and_diverges_at_some_steps_only(smollm2, models, answers):
    check_pair(*smollm2, Models(expert=smollm2[0], amateur=smollm2[1]))
    divergences = []
    for out, start in answers:
        with torch.inference_mode():
            p, q = (model(out).logits[0, start - 1 : -1].log_softmax(-1) for model in models)
        divergences.append((p.exp() * (p - q)).sum(-1))
    share = (torch.cat(divergences) > 0.4).float().mean()
    assert 0.1 < share < 0.5


@pytest.mark.long
def test_a_killed_conversion_leaves_no_model(smollm2, tmp_path):
    process = subprocess.Popen([sys.executable, "-m", "recipes.smollm2", "--out", str(tmp_path)])
    while not list(tmp_path.glob(".unfinished-*/expert/config.json")):
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "expert").exists()
    subprocess.run([sys.executable, "-m", "recipes.smollm2", "--out", str(tmp_path)], check=True)
    for name in ("expert", "amateur"):
        written, cached = tmp_path / name, Path(smollm2[0]).parent / name
        assert json.loads((written / "config.json").read_text())["architectures"] == [
            "LlamaForCausalLM"
        ]
        for file in ("model.safetensors", "tokenizer.json", "config.json"):
            assert (written / file).read_bytes() == (cached / file).read_bytes()


def test_sampled_real_pair_passes_its_audit(smollm2, ray_cluster, tmp_path):
    expert, amateur = smollm2
    config = demo_config(
        models={"expert": expert, "amateur": amateur},
        sampling={"max_problems": 8, "max_new_tokens": 64, "kl_threshold": 0.4, "top_k": 4096},
    )
    run = Run(str(tmp_path))
    summary = sample(run, config, expert, amateur, lambda *_: None)
    assert summary["trajectories"] == 8
    assert summary["exchange"]["top_k"] == 4096
    assert 0 < summary["largest_expert_residual"] < 0.1
    found = audit(run, config, expert, amateur, 0, 0, lambda *_: None)
    assert not [name for name, figure in found.figures.items() if figure.exceeded]
    assert found.steps_kept == summary["steps_kept"] > 50
    assert found.figures["steps_changing_sides"].value == 0


def supervision(tokenizer) -> pa.Table:
    """A short answer to each problem, with a kept step at two of its tokens."""
    rows = []
    for number, (problem, answer) in enumerate(PROBLEMS.items()):
        ids = tokenizer(answer)["input_ids"]
        steps = [
            {"position": t, "token_ids": [ids[t], ids[t - 1]], "weights": [0.75, 0.25]}
            for t in (1, len(ids) - 1)
        ]
        rows.append(
            {
                "problem_id": f"problem-{number}",
                "prompt_token_ids": render_prompt(tokenizer, problem, "Be brief."),
                "completion_token_ids": ids,
                "finish_reason": "stop",
                "kl": [0.0] * len(ids),
                "steps": steps,
            }
        )
    return pa.Table.from_pylist(rows, schema=SUPERVISION)


@pytest.fixture(scope="module")
def trained(smollm2, tokenizer, ray_cluster, tmp_path_factory):
    """Ten optimizer steps of two workers with ZeRO-3 in bfloat16, of one or two micro-batches each."""
    run = Run(str(tmp_path_factory.mktemp("trained")))
    run.write_table("supervision/part-0.parquet", supervision(tokenizer))
    training = {"num_workers": 2, "zero_stage": 3, "dtype": "bfloat16", "optimizer_steps": 10}
    training |= {"batch_size": 3, "micro_batch_tokens": 64, "learning_rate": 1e-3}
    config = demo_config(models={"expert": smollm2[0], "amateur": smollm2[1]}, training=training)
    rows: list[dict] = []
    summary = train(run, config, smollm2[0], rows.append)
    return run, summary, rows


def logits(model, ids) -> torch.Tensor:
    with torch.inference_mode():
        return model(ids).logits[0].float()


def test_training_in_bfloat16_with_two_workers_and_zero_3_learns(trained):
    _, summary, rows = trained
    assert [(row["step"], row["workers"]) for row in rows] == [(i, 2) for i in range(1, 11)]
    losses = [row["loss"] for row in rows]
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])  # two batches hold all six kept steps
    assert summary["trained_steps"] == 30


def test_adapter_has_every_layers_weights(trained):
    run, *_ = trained
    adapter = load_file(run.path("adapter/adapter_model.safetensors"))
    assert set(adapter) == {
        f"base_model.model.model.layers.{layer}.self_attn.{name}_proj.lora_{part}.weight"
        for layer in range(30)
        for name in "qv"
        for part in "AB"
    }
    assert all(weight.abs().max() > 0 for weight in adapter.values())  # lora_B began at 0


def test_merged_model_is_base_and_adapter_up_to_one_rounding(trained, smollm2, tokenizer):
    """In float32, as bfloat16's own forwards are off by more (1.6 logits on such a prompt).

    Tolerances: 1 logit (their standard deviation is 8) and a tenth of what training changed.
    """
    from peft import PeftModel

    run, summary, _ = trained
    ids = torch.tensor([render_prompt(tokenizer, PROSE, None)])
    base = AutoModelForCausalLM.from_pretrained(smollm2[0], dtype=torch.float32).eval()
    untouched = logits(base, ids)
    model = PeftModel.from_pretrained(base, run.path("adapter")).eval()
    adapted = logits(model, ids)
    path = run.path("model")
    rounded = {k: v.bfloat16() for k, v in model.merge_and_unload().state_dict().items()}
    written = AutoModelForCausalLM.from_pretrained(path)
    assert written.dtype == torch.bfloat16
    assert all(torch.equal(w, rounded[name]) for name, w in written.state_dict().items())
    gap = (logits(written.float(), ids) - adapted).abs()
    change = (adapted - untouched).abs()
    print(
        f"merge gap {gap.max():.2g} (mean {gap.mean():.2g}), on export's probe "
        f"{summary['merge_logit_gap']:.2g}; training changed {change.max():.2g} ({change.mean():.2g})"
    )
    assert gap.max() < 1
    assert gap.mean() < 0.1 * change.mean()


def answer(path: str, prompt: list[int]) -> list[int]:
    """vLLM's greedy tokens. For a process of its own: engines leave memory and variables behind."""
    from vllm import SamplingParams

    loop = EngineLoop(lambda: Steps(start_engine(path, Pool(dtype="float32"), Place(gpus=0), 256)))
    params = SamplingParams(temperature=0, max_tokens=16, detokenize=False)
    (output,) = loop.run([prompt], [params])
    return list(output.outputs[0].token_ids)


def test_vllm_answers_with_the_merged_model_as_transformers_does(trained, tokenizer):
    path = trained[0].path("model")
    prompt = render_prompt(tokenizer, next(iter(PROBLEMS)), "Be brief.")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=16)[0, len(prompt) :]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        assert process.submit(answer, path, prompt).result() == expected.tolist()
