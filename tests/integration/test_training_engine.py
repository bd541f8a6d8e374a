"""The DeepSpeed engine against the oracle: any split of a batch gives the same gradient and state."""

import itertools
import os
import tempfile

import numpy as np
import pytest
import torch

from lr_ray import oracle
from lr_ray.training.batches import Trajectory, collate, label_entropy, pack, plan, share
from lr_ray.training.data import Step
from lr_ray.training.model import load_expert
from tests.integration.conftest import EXPERT, demo_config

BATCH = 16
SPLITS = [(zero, micro) for zero in (2, 3) for micro in (1, 4)]


def trajectories() -> list[Trajectory]:
    """Ten of random tokens, with up to four labels each: the arithmetic does not care."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(10):
        length = int(rng.integers(12, 40))
        rows = sorted(rng.choice(np.arange(3, length - 1), int(rng.integers(1, 5)), replace=False))
        steps = []
        for row in rows:
            size = int(rng.integers(1, 4))
            weights = rng.dirichlet(np.ones(size)).astype(np.float32)
            steps.append(Step(int(row), rng.choice(500, size, False).astype(np.int32), weights))
        made.append(Trajectory(rng.integers(0, 500, length).astype(np.int32), tuple(steps), index))
    return made


def training(**over):
    return demo_config(training={"lora": {"dropout": 0.0}, "learning_rate": 1e-2} | over).training


def batch() -> np.ndarray:
    return next(plan([len(t.steps) for t in trajectories()], BATCH, 0, "step"))


def noisy(engine_or_model) -> dict:
    """Weights with lora_B away from zero, which would hide half of the gradient."""
    torch.manual_seed(1)
    names = sorted(engine_or_model)
    return {
        n: torch.randn(engine_or_model[n].shape) * 0.02 if "lora_B" in n else engine_or_model[n]
        for n in names
    }


def worker(rank: int, workers: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(workers), "LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    from lr_ray.training.engine import Engine

    items, pairs = trajectories(), batch()
    packed = pack(items, pairs)
    found: dict = {}
    for zero, micro in SPLITS:
        asked = training(zero_stage=zero, micro_batch_tokens={1: 10_000, 4: 60}[micro])
        engine = Engine(EXPERT, asked)
        weights = noisy(engine.full_weights())
        state = {f"weight/{n}": w for n, w in weights.items()}
        state |= {f"{m}/{n}": torch.zeros_like(w) for n, w in weights.items() for m in ("exp_avg", "exp_avg_sq")}  # fmt: skip
        engine.load_state(state, 0)
        parts = [collate(m) for m in share(packed, rank, workers, asked.micro_batch_tokens)]
        loss, _ = engine.backward(0, parts, BATCH).tolist()
        found[zero, micro] = {"loss": loss, "parts": len(parts), "gradient": engine.gradients()}
        engine.deepspeed.step()
        for number in (1, 2):
            engine.step(number, parts, BATCH)
        state = engine.state()
        engine.step(3, parts, BATCH)
        found[zero, micro] |= {"state": state, "after": engine.full_weights()}
    if rank == 0:
        torch.save(found, f"{folder}/{workers}.pt")
    # The state of one world goes on in the other, and in the other ZeRO stage.
    for (zero, _), other in itertools.product(((2, 1), (3, 1)), (2, 3)):
        asked = training(zero_stage=other)
        engine = Engine(EXPERT, asked)
        engine.load_state(found[zero, 1]["state"], 3)
        parts = [collate(m) for m in share(packed, rank, workers, 10_000)]
        engine.step(3, parts, BATCH)
        resumed = engine.full_weights()
        for name, weight in found[zero, 1]["after"].items():
            assert torch.allclose(weight, resumed[name], atol=1e-6), (zero, other, name)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found():
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for workers, port in ((1, 29611), (2, 29612)):
            torch.multiprocessing.spawn(worker, (workers, port, folder), workers)
            results[workers] = torch.load(f"{folder}/{workers}.pt")
    return results


@pytest.fixture(scope="module")
def expected():
    torch.set_num_threads(1)
    model = load_expert(EXPERT, training()).eval()
    names = {n.replace(".default.weight", ".weight"): w for n, w in model.named_parameters() if w.requires_grad}  # fmt: skip
    with torch.no_grad():
        for name, value in noisy({n: w.detach().clone() for n, w in names.items()}).items():
            names[name].copy_(value)
    loss = oracle.batch_loss(model, oracle.unpacked(trajectories(), batch().tolist()))
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in names.items()}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("zero", "micro"), SPLITS)
def test_gradient_is_the_oracles(found, expected, workers, zero, micro):
    got, (loss, gradients) = found[workers][zero, micro], expected
    assert (got["parts"] > 1) == (micro > 1)
    assert got["loss"] == pytest.approx(loss, rel=1e-5)
    difference = torch.cat([(got["gradient"][n] - g).flatten() for n, g in gradients.items()])
    size = torch.cat([g.flatten() for g in gradients.values()]).norm()
    relative = (difference.norm() / size).item()
    print(f"{workers} workers, ZeRO {zero}, {got['parts']} micro-batches each: {relative:.1e}")
    assert relative < 1e-4


def test_label_entropy_is_that_of_the_weights():
    items = trajectories()
    weights = [s.weights.astype(np.float64) for t in items for s in t.steps]
    expected = np.mean([-(w * np.log(w)).sum() for w in weights])
    assert label_entropy(items) == pytest.approx(expected, rel=1e-5)
