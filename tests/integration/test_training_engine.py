"""The DeepSpeed engine against the oracle: any split of a batch gives the same gradient and state."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lr_ray.method import oracle
from lr_ray.training import model
from lr_ray.training.batches import Trajectory, collate, label_entropy, pack, plan, share
from lr_ray.training.data import Step
from lr_ray.training.model import load_expert
from lr_ray.training.schedule import learning_rate
from tests.integration.conftest import EXPERT, demo_config
from tests.ports import free_port

BATCH = 16
# ZeRO stage, micro-batches of one worker, whether activations are computed twice.
SPLITS = [(2, 1, False), (2, 4, True), (3, 1, False), (3, 4, False), (3, 4, True)]


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


def gradients(engine) -> dict:
    """The reduced gradients after `backward`, whole."""
    from deepspeed.utils import safe_get_full_grad

    return {name: safe_get_full_grad(weight) for name, weight in engine.weights.items()}


def worker(rank: int, workers: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(workers), "LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    from lr_ray.training.engine import Engine

    items, pairs = trajectories(), batch()
    packed = pack(items, pairs)
    found: dict = {}
    for zero, micro, twice in SPLITS:
        tokens = {1: 10_000, 4: 50}[micro]
        asked = training(zero_stage=zero, micro_batch_tokens=tokens, gradient_checkpointing=twice)
        model.HEAD_ROWS = 4 if twice else 256
        engine = Engine(EXPERT, asked)
        weights = noisy(engine.full_weights())
        state = {f"weight/{n}": w for n, w in weights.items()}
        state |= {f"{m}/{n}": torch.zeros_like(w) for n, w in weights.items() for m in ("exp_avg", "exp_avg_sq")}  # fmt: skip
        engine.load_state(state, 0)
        parts = [collate(m) for m in share(packed, rank, workers, asked.micro_batch_tokens)]
        loss, _ = engine.backward(0, parts, BATCH).tolist()
        found[zero, micro, twice] = {
            "loss": loss,
            "parts": len(parts),
            "gradient": gradients(engine),
            "bucket": engine.deepspeed.optimizer.reduce_bucket_size,
        }
        engine.deepspeed.step()
        for number in (1, 2):
            engine.step(number, parts, BATCH)
        state = engine.state()
        engine.step(3, parts, BATCH)
        found[zero, micro, twice] |= {"state": state, "after": engine.full_weights()}
    if rank == 0:
        torch.save(found, f"{folder}/{workers}.pt")
    # A state of one worker goes on with any number, in either ZeRO stage.
    there = torch.load(f"{folder}/1.pt") if workers > 1 else found
    parts = [collate(m) for m in share(packed, rank, workers, 10_000)]
    for before, stage in itertools.product((2, 3), (2, 3)):
        engine = Engine(EXPERT, training(zero_stage=stage))
        engine.load_state(there[before, 1, False]["state"], 3)
        engine.step(3, parts, BATCH)
        resumed = engine.full_weights()
        for name, weight in there[before, 1, False]["after"].items():
            assert torch.allclose(weight, resumed[name], atol=1e-6), (before, stage, name)
    full(rank, parts, folder)
    torch.distributed.destroy_process_group()


def full(rank: int, parts: list, folder: str) -> None:
    """One step of all weights, exported."""
    from lr_ray.training.engine import Engine
    from lr_ray.training.export import export

    asked = training(method="full", zero_stage=3)
    engine = Engine(EXPERT, asked)
    engine.step(0, parts, BATCH)
    weights = engine.full_weights()
    if rank == 0:
        export(weights, EXPERT, "embedded:expert", Path(folder, "full"), asked)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("engines")
    for workers in (1, 2):
        torch.multiprocessing.spawn(worker, (workers, free_port(), str(made)), workers)
    return made


@pytest.fixture(scope="module")
def found(folder):
    return {workers: torch.load(folder / f"{workers}.pt") for workers in (1, 2)}


@pytest.fixture(scope="module")
def expected():
    torch.set_num_threads(1)
    untouched = load_expert(EXPERT, training()).eval()
    names = {n.replace(".default.weight", ".weight"): w for n, w in untouched.named_parameters() if w.requires_grad}  # fmt: skip
    with torch.no_grad():
        for name, value in noisy({n: w.detach().clone() for n, w in names.items()}).items():
            names[name].copy_(value)
    loss = oracle.batch_loss(untouched, oracle.unpacked(trajectories(), batch().tolist()))
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in names.items()}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("split", SPLITS)
def test_gradient_is_the_oracles(found, expected, workers, split):
    zero, micro, _ = split
    got, (loss, gradients) = found[workers][split], expected
    assert got["parts"] == micro if workers == 1 else got["parts"] >= min(micro, 2)
    assert got["loss"] == pytest.approx(loss, rel=1e-5)
    difference = torch.cat([(got["gradient"][n] - g).flatten() for n, g in gradients.items()])
    size = torch.cat([g.flatten() for g in gradients.values()]).norm()
    relative = (difference.norm() / size).item()
    print(f"{workers} workers, ZeRO {zero}, {got['parts']} micro-batches each: {relative:.1e}")
    assert relative < 1e-4
    # DeepSpeed's buffer for gradients is as large as what is trained.
    assert got["bucket"] == sum(g.numel() for g in gradients.values())


def test_full_fine_tuning_moves_every_weight_as_plain_adamw_does(folder):
    """To 1e-4 of the largest move: AdamW's first step is the rate times the gradient's sign, nearly."""
    asked = training(method="full")
    plain = load_expert(EXPERT, asked)
    loss = oracle.batch_loss(plain, oracle.unpacked(trajectories(), batch().tolist()))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), asked.max_grad_norm)
    # The engine's rate of step 0.
    torch.optim.AdamW(
        plain.parameters(), lr=learning_rate(0, asked), weight_decay=asked.weight_decay
    ).step()
    tuned = dict(oracle.load(str(folder / "full/model")).named_parameters())
    untouched = dict(oracle.load(EXPERT).named_parameters())
    assert not (folder / "full/adapter").exists()
    close = []
    for name, weight in plain.named_parameters():
        moved = (tuned[name] - untouched[name]).abs().max()
        assert moved > 0, name
        close.append(((tuned[name] - weight).abs() < 1e-4 * moved).flatten())
    assert torch.cat(close).float().mean() > 0.99  # where a gradient is near 0, its sign is noise


def test_label_entropy_is_that_of_the_weights():
    items = trajectories()
    weights = [s.weights.astype(np.float64) for t in items for s in t.steps]
    expected = np.mean([-(w * np.log(w)).sum() for w in weights])
    assert label_entropy(items) == pytest.approx(expected, rel=1e-5)
