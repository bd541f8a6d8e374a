"""The audit on rows made by the oracle's loop: nothing to find, then one thing spoilt at a time."""

import copy
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from lr_ray.audit import exact
from lr_ray.audit.audit import audit, draw, row_places
from lr_ray.audit.figures import LACKED, LUMPED_KL
from lr_ray.config import merge, read_tree, resolve
from lr_ray.embedded import amateur_path, expert_path, generate
from lr_ray.errors import StageError, UserError
from lr_ray.method import oracle
from lr_ray.models.models import load_tokenizer, render_prompt, stop_token_ids
from lr_ray.pipeline.job import facts
from lr_ray.run.asked import begin
from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run
from tests.integration.jobs import run_here

EXPERT, AMATEUR = str(expert_path()), str(amateur_path())
ROOT = Path(__file__).parents[2]
THRESHOLD, PLAUSIBILITY, PROBLEMS = 0.1, 0.2, 6
ROUNDING = 1e-4  # float32, two orders of summation


def config(expert=EXPERT, amateur=AMATEUR, **sampling):
    models = {"expert": str(expert), "amateur": str(amateur)}
    return resolve(merge(read_tree("demo"), {"models": models, "sampling": sampling}))


def write_run(folder, rows, settings=None, shards=2) -> Run:
    run, settings = Run(str(folder)), settings or config()
    begin(run, settings, facts(settings, settings_path(settings, 0), settings_path(settings, 1)))
    for i in range(shards):
        table = pa.Table.from_pylist(rows[i::shards], SUPERVISION)
        counts = {"trajectories": table.num_rows, "largest_expert_residual": 0.1 * i}
        said = {"problems": [i], "facts": counts, "top_k": min(settings.sampling.top_k, 590)}
        run.write_table(f"supervision/part-{i}.parquet", table, said)
    return run


def settings_path(settings, role):
    embedded = {"embedded:expert": EXPERT, "embedded:amateur": AMATEUR}
    model = (settings.models.expert, settings.models.amateur)[role]
    return embedded.get(model, model)


def audit_of(run, settings=None, count=0, seed=0):
    settings = settings or config()
    paths = settings_path(settings, 0), settings_path(settings, 1)
    return audit(run, settings, *paths, count, seed, lambda done, total: None)


def exceeded(done) -> set[str]:
    return {name for name, figure in done.figures.items() if figure.exceeded}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def everything() -> list[dict]:
    """Rows that keep all steps."""
    expert, amateur = oracle.load(EXPERT), oracle.load(AMATEUR)
    tokenizer, stop = load_tokenizer(EXPERT), stop_token_ids(EXPERT)
    rows = []
    for problem in generate("sampling", PROBLEMS):
        prompt = render_prompt(tokenizer, problem["problem"], None)
        solution = oracle.solve(expert, amateur, prompt, stop, 128, -1.0, PLAUSIBILITY)
        steps = [
            {
                "position": len(step.context) - len(prompt),
                "token_ids": step.token_ids,
                "weights": step.weights,
            }
            for step in solution.kept
        ]
        rows.append(
            {
                "problem_id": problem["problem_id"],
                "prompt_token_ids": prompt,
                "completion_token_ids": solution.completion,
                "finish_reason": "stop" if solution.completion[-1] in stop else "length",
                "kl": solution.kl,
                "steps": steps,
            }
        )
    return rows


def selected(rows) -> list[dict]:
    return [
        row | {"steps": [s for s in row["steps"] if row["kl"][s["position"]] > THRESHOLD]}
        for row in copy.deepcopy(rows)
    ]


@pytest.fixture
def rows(everything) -> list[dict]:
    return selected(everything)


def test_a_run_without_a_row_is_refused_before_the_models_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("lr_ray.audit.audit.load", None)
    run = write_run(tmp_path, [], shards=1)
    with pytest.raises(UserError, match=f"^--run {run.location}: no supervision rows to recompute"):
        audit_of(run)


def test_a_gpu_without_room_for_both_models_is_left_alone(tmp_path, rows, monkeypatch):
    weights = 4 * sum(oracle.load(path).num_parameters() for path in (EXPERT, AMATEUR))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (weights, 2 * weights))
    assert audit_of(write_run(tmp_path, rows), count=1).device == "cpu"


def test_rows_of_the_oracle_have_nothing_to_find(tmp_path, rows):
    done = audit_of(write_run(tmp_path, rows))
    assert done.rows == done.rows_of == PROBLEMS
    assert done.steps == sum(len(row["kl"]) for row in rows) > 100
    assert done.steps_kept == sum(len(row["steps"]) for row in rows) > 10
    assert (done.top_k, done.vocabulary, done.dtype) == (590, (590, 590), "float32")
    assert done.recorded == {
        "trajectories": PROBLEMS,
        "largest_expert_residual": 0.1,
        "top_k": 590,
    }
    for name, figure in done.figures.items():
        assert abs(figure.value) < ROUNDING, name
    assert not exceeded(done)


def lower_kl(rows):
    rows[2]["kl"][rows[2]["kl"].index(max(rows[2]["kl"]))] -= 0.05


def raise_kl(rows):
    rows[2]["kl"][rows[2]["kl"].index(max(rows[2]["kl"]))] += 0.05


def change_weight(rows):
    wide_step(rows)["weights"][0] += 0.01


def drop_token(rows):
    step = wide_step(rows)
    step["token_ids"].pop()
    step["weights"].pop()


def wide_step(rows):
    """The first label of two or more tokens in the second row."""
    return next(step for step in rows[1]["steps"] if len(step["token_ids"]) > 1)


def change_token(rows):
    rows[3]["completion_token_ids"][-1] += 1  # the last: no other step has it in its context


def drop_step(rows):
    rows[4]["steps"].pop(1)


def move_under_the_threshold(rows):
    step = rows[4]["steps"].pop(1)
    rows[4]["kl"][step["position"]] = THRESHOLD - 0.05


UNDER = {"kl_gap_largest", "kl_gap_mean", "kl_difference_largest", "kl_difference_mean"}
OVER = UNDER - {"kl_gap_largest"} | {"kl_gap_most_negative"}


@pytest.mark.parametrize(
    ("spoil", "figures", "where"),
    [
        (lower_kl, UNDER, 2),
        (raise_kl, OVER, 2),
        (change_weight, {"label_difference_largest"}, 1),
        (drop_token, {"label_difference_largest"}, 1),
        (change_token, {"trajectories_not_greedy"}, 3),
        (drop_step, {"steps_kept_against_kl"}, 4),
        (move_under_the_threshold, {"steps_changing_sides"} | UNDER, 4),
    ],
)
def test_one_spoilt_value_moves_its_figures_and_no_other(tmp_path, rows, spoil, figures, where):
    spoil(rows)
    done = audit_of(write_run(tmp_path, rows))
    assert exceeded(done) == figures
    for name, figure in done.figures.items():
        assert (abs(figure.value) > ROUNDING) == (name in figures), name
    for name in figures - {"kl_gap_mean", "kl_difference_mean"}:
        assert done.figures[name].where.startswith(f"{rows[where]['problem_id']} step ")


def test_added_step_is_one_kept_against_its_kl(tmp_path, rows, everything):
    position = next(i for i, kl in enumerate(rows[0]["kl"]) if kl < THRESHOLD / 2)
    steps = [*rows[0]["steps"], everything[0]["steps"][position]]
    rows[0]["steps"] = sorted(steps, key=lambda step: step["position"])
    done = audit_of(write_run(tmp_path, rows))
    assert exceeded(done) == {"steps_kept_against_kl"}
    assert done.figures["steps_kept_against_kl"].value == 1
    assert done.figures["steps_kept_against_kl"].where.endswith(f" step {position}")


def test_missing_label_token_counts_with_its_weight_and_a_kl_gap_with_its_size(tmp_path, rows):
    weight = wide_step(rows)["weights"][-1]
    drop_token(rows)
    lower_kl(rows)
    done = audit_of(write_run(tmp_path, rows))
    assert done.figures["label_difference_largest"].value == pytest.approx(weight, abs=ROUNDING)
    assert done.figures["kl_gap_largest"].value == pytest.approx(0.05, abs=ROUNDING)
    assert done.figures["kl_gap_mean"].value == pytest.approx(0.05 / done.steps, abs=ROUNDING / 10)


@torch.no_grad()
def expected(row, expert, amateur, k):
    """KL over the k most probable and all plausible tokens, the rest lumped; and what is lacked."""
    values, lacked = [], []
    tokens = row["prompt_token_ids"] + row["completion_token_ids"]
    for t in range(len(row["prompt_token_ids"]), len(tokens)):
        p, q = (oracle.next_token_logprobs(m, tokens[:t]).double().exp() for m in (expert, amateur))
        named = set(p.argsort(descending=True)[:k].tolist())
        named |= set(torch.nonzero(p >= PLAUSIBILITY * p.max())[:, 0].tolist())
        ids = sorted(i for i in named if i < len(q))
        tail_p, tail_q = (max(float(1 - x[ids].sum() / x.sum()), exact.FLOOR) for x in (p, q))
        inside = (p[ids] * (p[ids] / q[ids]).log()).sum()
        values.append(float(inside) + tail_p * math.log(tail_p / tail_q))
        lacked.append(float(p[len(q) :].sum()))
    return values, lacked


@pytest.mark.parametrize("top_k", [2, 16])
def test_truncated_rows_have_gaps_of_one_sign(tmp_path, everything, top_k):
    expert, amateur = oracle.load(EXPERT), oracle.load(AMATEUR)
    everything = everything[:3]
    cut = [row | {"kl": expected(row, expert, amateur, top_k)[0]} for row in everything]
    settings = config(top_k=top_k)
    done = audit_of(write_run(tmp_path, selected(cut), settings), settings)
    figures = done.figures
    assert done.top_k == top_k
    gaps = [e - c for row, r in zip(everything, cut, strict=True) for e, c in zip(row["kl"], r["kl"], strict=True)]  # fmt: skip
    assert figures["kl_gap_largest"].value == pytest.approx(max(gaps), abs=ROUNDING)
    assert figures["kl_gap_mean"].value == pytest.approx(sum(gaps) / len(gaps), abs=ROUNDING / 10)
    assert 10 * ROUNDING < figures["kl_gap_largest"].value < figures["kl_gap_largest"].bound
    assert figures["kl_gap_largest"].bound > LUMPED_KL
    assert figures["kl_gap_most_negative"].value > -ROUNDING
    assert figures["kl_difference_largest"].value < ROUNDING
    assert figures["label_difference_largest"].value < ROUNDING


def resized(source, folder, rows, fill=None) -> str:
    """A copy of a model with another number of output rows; `fill` is the token the new ones copy."""
    model = oracle.load(source)
    old = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[len(old) :] = 0 if fill is None else old[fill]
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text(Path(source, name).read_text())
    return str(folder)


@pytest.mark.parametrize(
    ("expert_rows", "amateur_rows"), [(590, 606), (590, 588), (606, 590), (606, 600)]
)
def test_ids_of_one_model_alone_are_lumped(tmp_path, everything, expert_rows, amateur_rows):
    (eos,) = stop_token_ids(EXPERT)
    paths = (
        resized(EXPERT, tmp_path / "expert", expert_rows, eos),
        resized(AMATEUR, tmp_path / "amateur", amateur_rows),
    )
    settings = config(*paths)
    models = [oracle.load(path) for path in paths]
    lacked, rows = [], []
    for row in everything[:3]:
        kl, beyond = expected(row, *models, expert_rows)
        rows.append(row | {"kl": kl, "steps": []})
        lacked += beyond
    done = audit_of(write_run(tmp_path / "run", rows, settings), settings)
    figures = done.figures
    assert done.vocabulary == (expert_rows, amateur_rows)
    assert figures["steps_without_exact_kl"].value == sum(x > LACKED for x in lacked)
    if amateur_rows < 600 < expert_rows:  # some of the end token's probability went to its copies
        assert figures["steps_without_exact_kl"].value >= 3
    assert figures["kl_difference_largest"].value < 1e-3
    assert figures["kl_gap_most_negative"].value > -1e-3
    assert figures["steps_changing_sides"].value == 0


def test_long_trajectories_in_chunks_are_the_same(tmp_path, rows, monkeypatch):
    run = write_run(tmp_path, rows)
    monkeypatch.setattr(exact, "CHUNK_STEPS", 5)
    assert not exceeded(audit_of(run))
    drop_token(rows)
    spoilt = write_run(tmp_path / "spoilt", rows)
    assert exceeded(audit_of(spoilt)) == {"label_difference_largest"}


def test_engines_in_bfloat16_may_differ_more(tmp_path, rows):
    lower_kl(rows)
    change_weight(rows)
    settings = config()
    settings.sampling.amateur.dtype = "bfloat16"
    done = audit_of(write_run(tmp_path, rows, settings), settings)
    assert done.dtype == "bfloat16"
    assert not exceeded(done)


def test_sample_is_drawn_by_the_seed_and_not_by_the_shards(tmp_path, rows):
    runs = [write_run(tmp_path / str(n), rows, shards=n) for n in (1, 3)]
    one, three = ([p[0] for p in draw(row_places(run), 3, seed=5)] for run in runs)
    assert len(set(one)) == 3
    assert set(one) == set(three)
    places = row_places(runs[0])
    assert len({frozenset(draw(places, 3, seed)) for seed in range(8)}) > 3
    assert len(draw(places, 0, 0)) == len(draw(places, 100, 0)) == PROBLEMS
    done = audit_of(runs[1], count=3, seed=5)
    assert (done.rows, done.rows_of) == (3, PROBLEMS)
    assert set(done.problem_ids) == set(one)


@pytest.mark.parametrize(
    ("changed", "column"),
    [({"problem_id": None}, "problem_id"), ({"kl": None}, "kl"), ({"steps": [None]}, "steps"),
     ({"steps": [{"position": 0, "token_ids": [7], "weights": None}]}, "steps.weights")],
)  # fmt: skip
def test_a_null_is_named_by_its_shard_and_row(tmp_path, rows, changed, column):
    rows[1] |= changed
    with pytest.raises(StageError, match=rf"supervision/.*\.parquet: row 2: a null in {column}$"):
        audit_of(write_run(tmp_path, rows, shards=1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda row: row["kl"].pop(), "KL values for"),
        (lambda row: row["kl"].__setitem__(0, math.nan), "not a finite number"),
        (lambda row: row["completion_token_ids"].__setitem__(0, 590), "not among the 590"),
        (lambda row: row["steps"][0].update(position=len(row["kl"])), "do not ascend"),
        (lambda row: row["steps"][0]["weights"].append(0.0), "not one weight a token"),
        (
            lambda row: row["steps"][0].update(token_ids=[7, 8], weights=[1.5, -0.5]),
            "a weight below 0",
        ),
        (lambda row: row.update(kl=[], completion_token_ids=[], steps=[]), "no completion"),
    ],
)
def test_malformed_row_is_named(tmp_path, rows, change, reason):
    change(rows[2])
    with pytest.raises(StageError, match=f"{rows[2]['problem_id']}: .*{reason}"):
        audit_of(write_run(tmp_path, rows))


BLOCKED = """
import runpy, sys
sys.modules["ray"] = sys.modules["vllm"] = None  # importing them fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def apart(run, *arguments):
    command = [sys.executable, "-c", BLOCKED, "jobs/audit.py", "--run", run.location, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def job(run, *arguments):
    return run_here("audit", "--run", run.location, *arguments)


def test_job_needs_neither_ray_nor_vllm_and_says_what_it_found(tmp_path, rows):
    run = write_run(tmp_path, rows)
    ended = apart(run, "--sample", "4", "--seed", "3")
    assert ended.returncode == 0, ended.stderr
    assert "4 of 6 rows (seed 3)" in ended.stdout
    found = json.loads((tmp_path / "audit.json").read_text())
    assert (found["rows"], found["seed"], found["exceeded"]) == (4, 3, [])
    assert len(found["problem_ids"]) == 4
    assert found["figures"]["label_difference_largest"]["bound"] == 1e-3
    assert found["versions"]["transformers"]


def test_job_exits_with_1_naming_the_figure(tmp_path, rows):
    drop_step(rows)
    run = write_run(tmp_path, rows)
    ended = job(run, "--sample", "all")
    assert ended.returncode == 1
    assert "error: 1 of 12 figures exceed" in ended.stderr
    assert "steps kept or left out against their recorded KL 1 (at most 0)" in ended.stderr
    assert json.loads((tmp_path / "audit.json").read_text())["exceeded"] == [
        "steps_kept_against_kl"
    ]


def test_job_exits_with_2_before_it_loads_a_model(tmp_path, rows):
    run = write_run(tmp_path, rows)
    with run.lock():
        held = job(run)
    asked = run.read_json("run.json")
    asked["config"]["sampling"]["selection"] = "random"
    run.write_json("run.json", asked)
    ablation = job(run)
    asked["config"]["sampling"]["selection"] = "kl"
    asked["models"]["amateur"]["fingerprint"] = "0" * 16
    run.write_json("run.json", asked)
    changed = job(run)
    run.remove("supervision")
    empty = job(run)
    run.remove("run.json")
    for ended, reason in (
        (held, "another process"),
        (ablation, "sampling.selection = random: an audit can recompute kl alone"),
        (changed, "another model behind models.amateur"),
        (empty, "no supervision; sample first"),
        (job(run), "no run there: it has no run.json"),
        (job(run, "--config", "demo"), "no run there: it has no run.json"),
        (job(run, "--sample", "-1"), "'-1' is not a number of rows, nor all"),
    ):
        assert ended.returncode == 2, reason
        assert reason in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    assert not run.exists("audit.json")
    assert not run.exists("run.json")


@pytest.mark.parametrize(
    ("settings", "lacks"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "requires gptqmodel"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "requires optimum"),
        ({"quant_method": "modelopt"}, "Unknown quantization type, got modelopt"),
    ],
)
def test_job_says_what_quantised_weights_need_before_it_reads_any(tmp_path, rows, settings, lacks):
    expert = shutil.copytree(EXPERT, tmp_path / "expert")
    said = json.loads((expert / "config.json").read_text()) | {"quantization_config": settings}
    (expert / "config.json").write_text(json.dumps(said))
    ended = job(write_run(tmp_path / "run", rows, config(expert=expert)))
    kind = settings["quant_method"]
    assert ended.returncode == 2, ended.stderr
    assert f"models.expert: {expert}: its weights are quantised ({kind})" in ended.stderr
    assert lacks in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""
