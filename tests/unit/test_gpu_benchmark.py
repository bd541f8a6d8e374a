"""The parts of benchmarks/gpu.py that are right or wrong without a measurement."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_rungs import machine, options, precision, record, table
from benchmarks.gpu_rungs.options import NEEDS, SHARES
from benchmarks.gpu_rungs.precision import Step, compared, steps_of, until_stop
from benchmarks.gpu_rungs.record import Record

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", None),
        ("CPU, 2 x AMD EPYC", None),
    ],
)
def test_peak_follows_from_the_devices_name(device, peak):
    assert machine.peak_tflops(device) == peak


def test_missing_names_what_cannot_be_found_and_imports_nothing():
    assert machine.missing(["json", "no_such_module", "numpy"]) == ["no_such_module"]
    assert importlib.util.find_spec("antigravity")
    assert machine.missing(["antigravity"]) == []  # its import would open a browser


def test_every_rung_has_a_budget_and_all_stay_below_ten_minutes():
    assert SHARES.keys() == NEEDS.keys()
    assert sum(SHARES.values()) < 900
    for rung in ("training", "scoring", "precision"):
        assert set(NEEDS[rung]) == {"torch", "transformers", "peft", "numpy"}


def test_a_rung_that_is_killed_leaves_what_it_had_found(tmp_path):
    file = tmp_path / "rung.json"
    ours = Record("training", 60.0)
    ours.keep_in(file)
    ours.row("packed", seconds=1.5)
    left = record.read(file)  # as the front does when the process is gone
    assert left.status == "stopped"
    assert left.rows == [{"what": "packed", "seconds": 1.5}]


def test_a_failing_part_is_recorded_and_leaves_the_next_its_turn():
    ours = Record("scoring", 60.0)
    ours.attempt("first", lambda: torch.zeros(2) @ torch.zeros(3))
    ours.attempt("second", lambda: ours.row("second", seconds=1.0))
    ours.end()
    assert ours.status == "failed"
    assert len(ours.failed) == 1
    assert ours.failed[0].startswith("first: RuntimeError: ")
    assert ours.rows == [{"what": "second", "seconds": 1.0}]


def test_only_a_rung_without_figures_counts_as_skipped():
    statuses = []
    for rows in (0, 1):
        ours = Record("scoring", 60.0)
        ours.skip("vllm not installed")
        for _ in range(rows):
            ours.row("transformers", seconds=1.0)
        ours.end()
        statuses.append(ours.status)
    assert statuses == ["skipped", "done"]


def test_paper_is_extrapolated_from_the_rates():
    training = Record("training", 60.0)
    training.row("packed, dropout 0.05", seconds_per_step=0.05)
    training.row("gradient, packed against one forward a kept step", relative_gap=1e-6)
    scoring = Record("scoring", 60.0)
    scoring.row("vLLM scorer", trajectories_per_second=250.0)
    sampling = Record("sampling", 60.0)
    sampling.row("expert decodes", tokens_per_second=64_000.0)
    sampling.row("in turn", tokens_per_second=32_000.0)
    lines = table.extrapolated([training, scoring, sampling])
    assert [line.split(": ", 1)[1] for line in lines] == [
        "decode, score and label 128000 steps in 4.0 s",
        "packed, dropout 0.05: 1000 optimizer steps of 16 in 50 s",
        "vLLM scorer: score 1000 trajectories in 4.0 s",
    ]
    assert all(line.startswith("extrapolated to the paper's setting") for line in lines)
    assert table.extrapolated([Record("sampling", 60.0)]) == []


def test_rows_of_the_same_figures_share_a_table():
    rows = [
        {"what": "a", "seconds": 1.23456, "mfu": None},
        {"what": "b", "seconds": 0.00001, "mfu": 0.5},
        {"what": "c", "relative_gap": 0.0},
    ]
    assert table.tables(rows) == [
        "| what | seconds | mfu |",
        "|---|---|---|",
        "| a | 1.235 | - |",
        "| b | 1.0e-05 | 0.5 |",
        "",
        "| what | relative gap |",
        "|---|---|",
        "| c | 0 |",
        "",
    ]


def test_table_names_device_driver_versions_and_reasons():
    skipped = Record("pipeline", 60.0)
    skipped.skip("ray not installed")
    skipped.end()
    report = {"device": "NVIDIA H100 80GB HBM3", "driver": "580.65.06", "date": "2026-01-02"}
    report |= {"versions": {"torch": "2.13.0", "ray": None}, "size": "1.5b"}
    report |= {"command": "python benchmarks/gpu.py", "extrapolated": ["extrapolated: 1 s"]}
    text = "\n".join(table.lines(report, [skipped]))
    for expected in (
        "device     NVIDIA H100 80GB HBM3",
        "driver     580.65.06",
        "versions   torch 2.13.0, ray none",
        "command    python benchmarks/gpu.py",
        "date       2026-01-02",
        "## pipeline: skipped",
        "skipped: ray not installed",
        "extrapolated: 1 s",
    ):
        assert expected in text
    json.dumps(report)


def test_steps_compare_kl_sides_greedy_tokens_and_labels():
    p = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1]])
    q = torch.tensor([[0.1, 0.3, 0.6], [0.5, 0.4, 0.1]])
    exact = steps_of(p.log(), q.log(), 0.4)
    kl = 0.6 * torch.tensor(6.0).log() + 0.1 * torch.tensor(1 / 6).log()
    assert exact[0].kl == pytest.approx(kl.item(), rel=1e-5)
    assert exact[0].greedy == 0
    assert exact[0].label == pytest.approx({0: 6 / 7, 1: 1 / 7})
    assert exact[1].kl == pytest.approx(0, abs=1e-6)
    assert exact[1].label == {}
    ours = [Step(exact[0].kl + 0.1, 0, {0: 0.9, 2: 0.1}), Step(0.5, 1, {1: 1.0})]
    found = compared(ours, exact, 0.4)
    assert found["steps"] == 2
    assert found["kl_moved_max"] == pytest.approx(0.5, abs=1e-6)
    assert found["kl_moved_mean"] == pytest.approx(0.3, abs=1e-6)
    assert (found["kept_float32"], found["changed_sides"], found["greedy_changed"]) == (1, 1, 1)
    assert found["label_gap_max"] == pytest.approx(1 / 7)  # token 1, which ours lacks
    assert found["labels_of_other_tokens"] == 1


def test_vocabularies_of_unlike_size_are_compared_where_both_have_rows():
    p, q = torch.zeros(1, 5).log_softmax(-1), torch.zeros(1, 3).log_softmax(-1)
    assert steps_of(p, q, 0.4)[0].kl == pytest.approx(3 * 0.2 * torch.tensor(0.6).log().item())


def test_completion_ends_with_its_first_stop_token():
    assert until_stop([5, 2, 7, 2], {2, 9}) == [5, 2]
    assert until_stop([5, 6], {2}) == [5, 6]


def test_random_weights_are_called_what_they_are(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # benchmarks/training.py would leave it behind
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("real_pair", "smollm2_pair"):
        monkeypatch.setattr(precision, name, lambda *_: None)
    ours = Record("precision", 600.0)
    precision.measure(ours, options.Options("tiny", "cpu", None, None, None))
    assert [row["what"] for row in ours.rows] == [
        f"{form}, random weights: nothing about real KL"
        for form in ("bfloat16", "bfloat16, lm_head in float32")
    ]
    assert all(row["steps"] == 3 * options.NEW_TOKENS for row in ours.rows)
    assert ours.notes == ["no real weights were found; give --pair EXPERT AMATEUR"]


def test_dtype_is_bfloat16_on_a_gpu_alone():
    both = [options.Options("tiny", device, None, None, None).dtype for device in ("cuda", "cpu")]
    assert both == ["bfloat16", "float32"]
