"""What --plan counts, warns of and advises, against known sizes, the placement's own demands and a written run."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from lr_ray import embedded, placement, plan
from lr_ray.cli import parse
from lr_ray.config import Config, merge, read_tree, resolve
from lr_ray.errors import UserError

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs/full_pipeline.py"
SMOLLM2 = ROOT / ".cache/smollm2/expert"
GPU = 80e9


def configured(preset: str, *overrides: str) -> Config:
    return parse("", ["--config", preset, *overrides]).config


def models_of(config: Config) -> plan.Models:
    found = {
        role: plan.find_model(getattr(config.models, role), f"models.{role}")
        for role in ("expert", "amateur")
    }
    return {role: m if isinstance(m, plan.Model) else None for role, m in found.items()}


def warned(config: Config, gpus: int | None, gpu: float = GPU) -> list[str]:
    return plan.warnings(config, models_of(config), gpus, gpu)


def needed(config: Config, most: bool = False) -> dict[str, int]:
    stages = plan.stages(config, models_of(config))
    return {stage: plan.at_once(processes, most) for stage, processes in stages.items()}


def job(*arguments: str, script: tuple[str, ...] = (str(JOB),)) -> subprocess.CompletedProcess:
    command = [sys.executable, *script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-Math-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-Math-7B", 7_615_616_512),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1_777_088_000),
    ],
)
def test_parameters_of_known_models(name, parameters):
    model = plan.find_model(name, "models.expert")
    assert isinstance(model, plan.Model)
    assert model.parameters == parameters


@pytest.mark.parametrize("folder", [embedded.expert_path(), embedded.amateur_path(), SMOLLM2])
def test_parameters_are_those_of_the_weights_on_disk(folder):
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pytest.skip(f"{folder.parent.name} is not here")
    total = 0
    for file in files:
        with safe_open(file, "np") as weights:
            for name in weights.keys():  # noqa: SIM118
                count = 1
                for size in weights.get_slice(name).get_shape():
                    count *= size
                total += count
    model = plan.find_model(str(folder), "models.expert")
    assert isinstance(model, plan.Model)
    assert model.parameters == total


def test_biases_norms_and_head_size_of_other_kinds():
    base = {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 16, "vocab_size": 10, "max_position_embeddings": 32, "model_type": "llama",
    }  # fmt: skip
    plain = plan.describe(base)  # q, o 8x8; k, v 8x4; MLP 3 of 8x16; norms 3 of 8; two tables
    assert plain.parameters == 2 * 64 + 2 * 32 + 3 * 128 + 3 * 8 + 2 * 80
    assert plain.cache == 2 * 4
    biased = plan.describe({**base, "attention_bias": True, "mlp_bias": True})
    assert biased.parameters - plain.parameters == (8 + 4 + 4 + 8) + (16 + 16 + 8)
    assert plan.describe({**base, "model_type": "qwen2"}).parameters - plain.parameters == 8 + 4 + 4
    assert plan.describe({**base, "model_type": "qwen3"}).parameters - plain.parameters == 2 * 4
    wide = plan.describe({**base, "head_dim": 8})
    assert wide.parameters - plain.parameters == 2 * 64 + 2 * 32


def test_memory_of_the_paper_pair():
    config = configured("qwen2.5-math-1.5b")
    models = models_of(config)
    stages = plan.stages(config, models)
    expert, amateur = stages["sampling"]
    assert expert.weights == 2 * 1_543_714_304
    assert (expert.token, amateur.token) == (2 * 28 * 2 * 128 * 2, 2 * 24 * 2 * 64 * 2)
    assert expert.sequence == amateur.sequence == 4096  # the shorter context of the two
    assert expert.room(GPU) == 72e9
    assert models["expert"] is not None
    lora = 28 * 8 * ((1536 + 1536) + (1536 + 256))
    assert plan.trained(config, models["expert"]) == lora == 1_089_536
    assert stages["training"][0].state == 12 * lora
    assert plan.shards(config) == 16


def test_zero_stages_divide_state_and_weights():
    for zero, weights in ((2, 2 * 7_615_616_512), (3, 7_615_616_512 / 2)):
        training = {"method": "full", "num_workers": 4, "zero_stage": zero}
        config = resolve(merge(read_tree("qwen2.5-math-7b"), {"training": training}))
        trainer = plan.stages(config, models_of(config))["training"][0]
        assert trainer.weights == weights
        assert trainer.state == 3 * 7_615_616_512


@pytest.mark.parametrize("preset", ["demo", "qwen2.5-math-1.5b", "qwen2.5-math-7b"])
def test_stages_ask_for_what_the_placement_asks_for(preset):
    config = configured(
        preset, "--sampling.expert.min_engines", "2", "--sampling.expert.max_engines", "3"
    )
    stages = plan.stages(config, models_of(config))
    for stage in ("sampling", "training"):
        asked = {p.role: [p.place.bundle()] * p.least for p in stages[stage]}
        assert asked == placement.demands(config, stage)


def test_shares_fill_whole_gpus():
    def gpus(expert: str, amateur: str, *more: str) -> int:
        shares = ("--resources.expert.gpus", expert, "--resources.amateur.gpus", amateur)
        return needed(configured("qwen2.5-math-1.5b", *shares, *more))["sampling"]

    three = ("--sampling.expert.min_engines", "3", "--sampling.expert.max_engines", "3")
    assert gpus("0.7", "0.3") == 1
    assert gpus("0.7", "0.4") == 2
    assert gpus("0.6", "0.3", *three) == 3  # 2.1 GPUs, but no two experts share one
    assert gpus("2", "0.5") == 3
    assert gpus("0", "0") == 0


@pytest.mark.parametrize(
    ("preset", "share", "engines"),
    [("qwen2.5-math-1.5b", (0.7, 0.3), (6, 2)), ("qwen2.5-math-7b", (0.8, 0.2), (7, 1))],
)
@pytest.mark.parametrize("gpus", [1, 8])
def test_advice_for_presets(preset, share, engines, gpus):
    config = configured(preset)
    assert needed(config) == {"sampling": 2, "training": 1, "evaluation": 2}
    lines = warned(config, gpus)
    flags = shlex.split(" ".join(line.partition(" with ")[2] for line in lines))
    assert len(lines) == (2 if gpus == 1 else 3)
    followed = configured(preset, *flags)
    assert warned(followed, gpus) == []
    assert set(needed(followed, most=True).values()) == {gpus}
    resources, sampling = followed.resources, followed.sampling
    if gpus == 1:
        assert (resources.expert.gpus, resources.amateur.gpus) == share
        assert resources.server.gpus == 0.5
    else:
        assert (sampling.expert.max_engines, sampling.amateur.max_engines) == engines
        assert followed.training.num_workers == 8
        assert followed.serving.min_replicas == 4


@pytest.mark.parametrize("gpus", [2, 3, 5, 7, 16])
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("--resources.expert.gpus", "4", "--resources.server.gpus", "4"),
        ("--resources.expert.gpus", "0.5", "--resources.amateur.gpus", "0.5", "--resources.server.gpus", "0.25"),
        ("--sampling.expert.min_engines", "20", "--sampling.expert.max_engines", "20"),
        ("--training.num_workers", "40", "--training.min_workers", "20"),
        ("--sampling.method", "rejection"),
        ("--serving.max_replicas", "30", "--serving.min_replicas", "9"),
    ],
)  # fmt: skip
def test_followed_advice_leaves_no_warning(gpus, overrides):
    config = configured("qwen2.5-math-7b", *overrides)
    lines = warned(config, gpus)
    flags = shlex.split(" ".join(line.partition(" with ")[2] for line in lines))
    followed = configured("qwen2.5-math-7b", *overrides, *flags)
    assert warned(followed, gpus) == []


def test_large_models_are_split_and_states_partitioned():
    config = configured("qwen2.5-math-7b", "--training.method", "full")
    lines = warned(config, 8, 16e9)
    assert [line.partition(":")[0] for line in lines] == [
        "resources.expert", "resources.trainer", "resources.server"
    ]  # fmt: skip
    assert "--resources.expert.gpus 2 --sampling.expert.max_engines 3" in lines[0]
    assert "--training.num_workers 8 --training.zero_stage 3" in lines[1]
    assert "--resources.server.gpus 2 --serving.min_replicas 2" in lines[2]
    assert "it takes more GPUs, or larger ones" in warned(config, 2, 16e9)[1]
    assert all(line.endswith("--gpus N says what would fit") for line in warned(config, None, 16e9))


def test_lengths_beyond_the_context_are_told():
    lines = warned(configured("demo", "--sampling.max_new_tokens", "512"), None)
    assert lines == ["sampling.max_new_tokens = 512 leaves no room for a prompt in 512"]
    lines = warned(configured("demo", "--serving.max_model_len", "600"), None)
    assert lines == [
        "serving.max_model_len = 600 exceeds the 512 tokens that the expert reads"
    ]  # fmt: skip


def test_answers_are_counted_where_the_problems_are_here(tmp_path):
    file = tmp_path / "asked.jsonl"
    file.write_text('{"problem": "1+1", "answer": "2"}\n{"problem": "2+2", "answer": "4"}\n')
    asks = ("--evaluation.benchmarks", str(file), "--evaluation.shots", "0,1")
    assert plan.answers(configured("demo", *asks)) == 2 * 2 * 2
    assert plan.answers(configured("demo")) == 2 * 1000
    assert plan.answers(configured("qwen2.5-math-1.5b")) is None
    few = ("--evaluation.max_problems", "10", "--evaluation.samples", "3", "--evaluation.temperature", "1")  # fmt: skip
    assert plan.answers(configured("qwen2.5-math-1.5b", *few)) == 2 * 7 * 10 * 3


def test_models_that_are_not_here_are_left_out():
    done = job("--config", "demo", "--plan", "--gpus", "1", "--models.amateur", "org/unknown")
    assert done.returncode == 0
    assert "models.amateur: org/unknown/config.json is not here" in done.stdout
    assert done.stdout.count(" weights ") == 3  # expert, trainer, server


def test_unusable_architectures(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "gpt2"}')
    assert "cannot count parameters of gpt2" in plan.find_model(str(tmp_path), "models.expert")
    for text in ('{"model_type": "qwen2"}', "[", "[]"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"models\.expert: .*config\.json: no usable") as error:
            plan.find_model(str(tmp_path), "models.expert")
        assert "\n" not in str(error.value)


def test_the_job_prints_a_plan_and_starts_nothing(tmp_path):
    run = tmp_path / "run"
    code = (
        "import atexit, runpy, sys; sys.argv = sys.argv[1:]; "
        "atexit.register(lambda: print([m for m in ('torch', 'ray', 'vllm') if m in sys.modules])); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = ("--config", "demo", "--run", str(run), "--plan", "--gpus", "1")
    done = job(*arguments, script=("-c", code, str(JOB)))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"
    assert "538 thousand parameters, reads 512 tokens" in done.stdout
    assert "at most 500 problems in 8 shards" in done.stdout
    assert "302 MB exchanged" in done.stdout  # 500 * 128 * 590 * 8 bytes
    assert "no measured rates" in done.stdout
    assert "\n!" not in done.stdout
    assert not run.exists()


def finished_run(folder: Path, preset: str = "demo") -> Path:
    """A run of 100 problems with one engine, 10 optimizer steps after a checkpoint, 200 answers."""
    config = resolve(read_tree(preset)).model_dump(mode="json")
    summary = {
        "sampling": {"problems": 100, "seconds": 10.0},
        "training": {"optimizer_steps": 30, "resumed_at": 20, "workers": 1, "seconds": 15.0, "loop_seconds": 10.0},
        "evaluation": {"answers": 200, "seconds": 4.0},
        "serving": {"seconds": 40.0},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps({"schema_version": 1, "config": config}))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_rates_are_scaled(tmp_path):
    run = finished_run(tmp_path)
    done = job(
        *("--config", "demo", "--plan", "--rates", str(run), "--training.num_workers", "2"),
        *("--sampling.expert.max_engines", "5", "--serving.min_replicas", "2"),
        *("--training.batch_size", "32", "--resources.expert.cpus", "2"),
    )
    assert done.returncode == 0
    told = done.stdout.partition("duration")[2].splitlines()
    # 10 s * 5 / 5, 5 s + 10 s * 8 / 2, 4 s * 10 / 2
    assert told[0].split(": ", 1)[1] == (
        "sampling 10 s, training 45 s, starting the endpoint 40 s, evaluation 20 s; 115 s"
    )
    assert told[1].strip() == (
        "not scaled for another training.batch_size, resources.expert.cpus"
    )  # fmt: skip


def test_rates_that_do_not_apply_are_refused(tmp_path):
    run = finished_run(tmp_path, "qwen2.5-math-1.5b")
    plan_of = ("--config", "demo", "--plan", "--rates", str(run))
    done = job(*plan_of)
    assert done.returncode == 2
    assert "was measured with models.expert = Qwen/Qwen2.5-Math-1.5B, not embedded:expert" in done.stderr  # fmt: skip
    summary = json.loads((finished_run(tmp_path) / "summary.json").read_text())
    for broken, reason in (
        ({k: v for k, v in summary.items() if k != "training"}, "training is not finished"),
        (summary | {"sampling": {}}, "no rates in run.json and summary.json"),
    ):
        (run / "summary.json").write_text(json.dumps(broken))
        done = job(*plan_of)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert reason in done.stderr
    done = job(*plan_of[:-1], str(tmp_path / "none"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpus", "2"), "--gpus has an effect with --plan alone"),
        (("--gpu-memory-gb", "40"), "--gpu-memory-gb has an effect with --plan alone"),
        (("--rates", "runs/x"), "--rates has an effect with --plan alone"),
        (("--plan", "--gpus", "0"), "0 must be a number of GPUs from 1"),
        (("--plan", "--gpus", "two"), "two must be a number of GPUs from 1"),
        (("--plan", "--gpu-memory-gb", "nan"), "nan must be a number of GB above 0"),
        (("--plan", "--models.expert", "embedded:x"), "models.expert: embedded:x is not one of"),
    ],
)
def test_bad_uses_are_one_line(tmp_path, arguments, message):
    done = job("--config", "demo", "--run", str(tmp_path / "run"), *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
    assert not (tmp_path / "run").exists()
