"""What a training says while it runs."""

from types import SimpleNamespace

import pytest

from lr_ray.config import read_tree, resolve
from lr_ray.console import Told, heard, quiet_others
from lr_ray.pipeline import stages
from lr_ray.training import train


@pytest.fixture
def losses(monkeypatch):
    """Of a training that only says so."""
    losses = [1.0, 3.0, *[5.0] * 30]

    def trained(run, config, expert, on_progress, checked):
        for step, loss in enumerate(losses, start=1):
            on_progress({"step": step, "resumed_at": 0, "loss": loss, "tokens": 1, "seconds": 1.0})
        figures = {"optimizer_steps": len(losses), "trained_steps": 9, "distinct_steps": 9}
        return figures | {"final_loss": 5.0, "seconds": 1.0}

    nothing = SimpleNamespace(progress=lambda done, total: None, set=lambda **values: None)
    monkeypatch.setattr(train, "check_supervision", lambda run, expert, sampling: (9, 9))
    monkeypatch.setattr(train, "train", trained)
    monkeypatch.setattr(stages, "StageMetrics", lambda run, stage: nothing)
    return losses


def test_a_loss_that_is_told_is_the_mean_of_the_last_ones(losses, tmp_path, capfd):
    told: list[Told] = []
    with quiet_others(str(tmp_path / "log")) as console, heard(told.append):
        job = SimpleNamespace(
            run=None, config=resolve(read_tree("demo")), expert="", console=console, summary={}
        )
        stages._train(job)
    notes = {t.done: t.note for t in told}
    assert notes[1] == "loss 1.000, mean of 1"
    assert notes[2] == "loss 2.000, mean of 2"
    assert notes[len(losses)] == "loss 5.000, mean of 20"
    assert {t.unit for t in told} == {"optimizer steps"}
    assert "the last batch's loss 5.000" in capfd.readouterr().out
