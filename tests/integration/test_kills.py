"""The pipeline whose processes are killed one after the other, and finished by the same command.

Each death hits a stage at work. At last the run holds what an undisturbed one holds.
"""

import json
import re
import signal
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM
from typing import NamedTuple

import psutil
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lr_ray.run.store import Run
from tests.integration.conftest import EVERY, STEPS, WHOLE
from tests.integration.driver import Driver, title
from tests.integration.jobs import command, run_here
from tests.integration.supervision import assert_same, shards
from tests.ports import free_port

GONE_WITHIN = 15  # seconds, after a signal that a job can act on
ORPHANS_GONE_WITHIN = 30  # after SIGKILL, of which the watcher waits 10
SECRET = f"hf_planted{uuid.uuid4().hex}"
SECRETS = {"HF_TOKEN": SECRET, "LR_RAY_API_KEY": SECRET, "WANDB_API_KEY": SECRET}

Seen = Callable[[Driver, Path], object]  # the job, and its run


def runs(title: str) -> Seen:
    return lambda job, run: job.named(title)


def has_a_shard(job: Driver, run: Path) -> object:
    return shards(run)


def is_beyond_a_checkpoint(job: Driver, run: Path) -> object:
    return len(rows_of(run)) > EVERY + EVERY // 2


def went_on_beyond_another(job: Driver, run: Path) -> object:
    return len([row for row in rows_of(run) if row["resumed_at"]]) > EVERY + EVERY // 2


def answers_come(job: Driver, run: Path) -> object:
    return re.search(r"^evaluation \d+/", job.output, re.MULTILINE)


class Victim(NamedTuple):
    """A process to be killed within a job, which goes on: one of this title, or such a child of it."""

    name: str
    title: str
    child: str = ""
    doing: str = ""  # in its title, for moments
    when: Seen = lambda job, run: True


class Ending(NamedTuple):
    """Of one driver: the signal it gets and when, in which stage, after which others were killed."""

    stage: str
    signal: signal.Signals  # SIGINT to the foreground group, as Ctrl-C sends it
    when: Seen
    victims: tuple[Victim, ...] = ()
    options: tuple[str, ...] = ()
    engines_apart: bool = False  # each in a process beside its actor's
    leaves_a_half: bool = False  # of a checkpoint, newer than all whole ones
    stuck: str = ""  # a process of this title is stopped first, and cannot end by itself


EXPERT_AT_WORK = "MapBatches(ExpertSampler)).submit"
IN_SAMPLING = Ending(
    "sampling",
    SIGKILL,
    has_a_shard,
    (Victim("expert's actor", EXPERT_AT_WORK),),
    stuck="RuntimeEnvAgent",
)
IN_TRAINING = Ending(
    "training",
    SIGKILL,
    went_on_beyond_another,
    (
        Victim("expert's engine process", EXPERT_AT_WORK, "VLLM::EngineCore"),
        Victim("amateur's actor", "MapBatches(AmateurScorer))", doing=".submit"),
        Victim("training worker", "RayTrainWorker", when=is_beyond_a_checkpoint),
    ),
    engines_apart=True,
    leaves_a_half=True,
    stuck="RayTrainWorker",  # or it could make the last steps before it is ended
)
IN_EVALUATION = Ending("evaluation", SIGINT, answers_come)
FEW = (IN_SAMPLING, IN_TRAINING, IN_EVALUATION)
MANY = (
    IN_SAMPLING,
    # Imports, in which a library may swallow what the signal raises.
    Ending("sampling", SIGTERM, runs("MapWorker(MapBatches(ExpertSampler))")),
    IN_TRAINING,
    Ending("training", SIGINT, runs("RayTrainWorker")),
    Ending(
        "serving", SIGTERM, runs(":LLMServer:"),
        # Two workers where there is room for one.
        options=(
            "--training.num_workers=2", "--training.min_workers=1", "--resources.trainer.cpus=3",
        ),
    ),
    IN_EVALUATION,
)  # fmt: skip


@dataclass
class Death:
    """What was seen of one ending."""

    ending: Ending
    killed: dict[str, int] = field(default_factory=dict)  # process ids
    rows: list[list[dict]] = field(default_factory=list)  # of metrics.jsonl, before each signal
    code: int = 0
    alive: int = 0
    left: list[str] = field(default_factory=list)
    port_closed: bool = False
    output: str = ""
    told: list[str] = field(default_factory=list)  # command lines with a secret
    shards: dict[str, float] = field(default_factory=dict)  # when each was written
    checkpoints: list[int] = field(default_factory=list)  # whole ones, after all have died


def rows_of(run: Path) -> list[dict]:
    with suppress(FileNotFoundError):
        # The last line may be half written.
        return [json.loads(x) for x in (run / "metrics.jsonl").read_text().split("\n")[:-1]]
    return []


def adapter_of(run: Path) -> dict:
    return load_file(run / "adapter/adapter_model.safetensors")


class Killed:
    """The run, and the deaths on its way."""

    def __init__(self, folder: Path, endings: Sequence[Ending]) -> None:
        self.folder, self.port, self.endings = folder, free_port(), endings
        self.options = [*WHOLE, "--run", str(folder), f"--serving.port={self.port}"]
        self.deaths: list[Death] = []

    def meet(self, ending: Ending) -> None:
        asked = command("full_pipeline", *self.options, *ending.options)
        apart = {"VLLM_ENABLE_V1_MULTIPROCESSING": str(int(ending.engines_apart))}
        job, death = Driver(asked, **SECRETS, **apart), Death(ending)
        if not self.deaths:
            job.wait_until((self.folder / "problems/index.json").exists)
            self.refuses_a_second(job)
        for victim in ending.victims:
            job.wait_until(lambda: victim.when(job, self.folder))  # noqa: B023
            death.rows.append(rows_of(self.folder))
            death.killed[victim.name] = job.kill(victim.title, victim.child, victim.doing)
        job.wait_until(lambda: ending.when(job, self.folder))
        stuck = job.named(ending.stuck) if ending.stuck else []
        for process in stuck:  # at once: steps take a twentieth of a second
            process.suspend()
        assert bool(stuck) == bool(ending.stuck)
        death.rows.append(rows_of(self.folder))
        self.end(job, death)
        self.deaths.append(death)

    def refuses_a_second(self, job: Driver) -> None:
        refused = run_here("full_pipeline", *self.options)
        assert refused.returncode == 2
        assert f"another process (process {job.process.pid} on" in refused.stderr

    def end(self, job: Driver, death: Death) -> None:
        number, running = death.ending.signal, job.marked()
        death.alive = len(running)
        death.told = [line for line in map(title, running) if SECRET in line]
        began = time.monotonic()
        death.code = job.end(number, group=number == SIGINT)
        death.left = job.left(began + (ORPHANS_GONE_WITHIN if number == SIGKILL else GONE_WITHIN))
        print(
            f"{number.name} in {death.ending.stage}: {death.alive} processes gone in "
            f"{time.monotonic() - began:.1f} s; killed before: {', '.join(death.killed) or 'none'}"
        )
        with socket.socket() as client:
            death.port_closed = client.connect_ex(("127.0.0.1", self.port)) != 0
        death.output, death.shards = job.output, shards(self.folder)
        whole = self.folder.glob("checkpoints/step-*/metrics.json")
        death.checkpoints = sorted(int(file.parent.name.removeprefix("step-")) for file in whole)
        if death.ending.leaves_a_half:
            self.write_half_a_checkpoint(death.checkpoints[-1])

    def write_half_a_checkpoint(self, last: int) -> None:
        """As one whose writer was killed on the way: of the next step, and without its end."""
        state, half = (
            self.folder / f"checkpoints/step-{step:06d}/state.safetensors"
            for step in (last, last + EVERY)
        )
        half.parent.mkdir(exist_ok=True)
        half.write_bytes(state.read_bytes()[: state.stat().st_size // 2])

    def finish(self) -> None:
        """On the Ray cluster of this process."""
        self.finished = run_here("full_pipeline", *self.options)
        self.summary = json.loads((self.folder / "summary.json").read_text())


@pytest.fixture(
    scope="module",
    params=[pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.long)],
)
def killed(request, ray_cluster, tmp_path_factory) -> Killed:
    made = Killed(tmp_path_factory.mktemp("killed") / "run", request.param)
    for ending in made.endings:
        made.meet(ending)
    made.finish()
    return made


def test_each_death_ends_all_processes_of_the_job_and_closes_its_port(killed):
    codes = {SIGKILL: -SIGKILL, SIGTERM: 143, SIGINT: 130}
    assert len(killed.deaths) == len(killed.endings)
    for death in killed.deaths:
        assert death.alive > 3, f"nothing was running in {death.ending.stage}: {death.output}"
        assert death.code == codes[death.ending.signal], death
        assert death.left == [], death
        assert death.port_closed, death


def test_each_victim_was_killed(killed):
    numbers = [number for death in killed.deaths for number in death.killed.values()]
    assert len(set(numbers)) == sum(len(ending.victims) for ending in killed.endings) == 4
    assert not any(psutil.pid_exists(number) for number in numbers)


def test_the_same_command_goes_on_and_finishes(killed):
    said = killed.finished.stdout + killed.finished.stderr
    assert killed.finished.returncode == 0, said
    assert "Traceback" not in said
    # A driver begins with the stage in which the one before was ended.
    begins = ("sampling   64", f"training   {STEPS} optimizer steps on")
    first = 0
    for death in killed.deaths:
        last = ("sampling", "training", "serving", "evaluation").index(death.ending.stage)
        said = [line in death.output for line in begins]
        assert said == [first <= stage <= last for stage in range(2)], death
        first = last
    names = {path.name for path in killed.folder.iterdir()}
    expected = {"run.json", "summary.json", "supervision", "adapter", "model", "evaluation"}
    assert expected <= names
    assert not list(killed.folder.rglob("*.tmp"))


def test_the_rows_are_those_of_an_undisturbed_run_and_no_finished_shard_was_written_again(
    killed, whole
):
    assert_same(Run(str(killed.folder)), Run(str(whole)))
    assert killed.summary["sampling"]["rejected"] == 0
    at_last = shards(killed.folder)
    assert 0 < len(killed.deaths[0].shards) < len(at_last) == 16
    for death in killed.deaths:
        assert death.shards.items() <= at_last.items(), death.ending


def test_training_goes_on_after_the_last_checkpoint(killed):
    starts = sorted({row["resumed_at"] for row in rows_of(killed.folder)})
    assert starts[0] == 0
    first, second = starts[1], starts[-1]  # after the worker's death and after the driver's
    # Which checkpoints these are depends on when the signals met the workers.
    assert first <= second < STEPS
    assert all(start % EVERY == 0 for start in starts)
    (death,) = (d for d in killed.deaths if d.ending is IN_TRAINING)
    *_, at_worker, at_driver = death.rows
    before = [row["step"] for row in at_worker]
    assert before == list(range(1, before[-1] + 1))
    assert first <= before[-1]
    again = [row["step"] for row in at_driver if row["resumed_at"] == first]
    assert again == list(range(first + 1, again[-1] + 1))
    assert second == death.checkpoints[-1]  # beyond which there was half a one
    assert killed.summary["training"]["resumed_at"] == second
    assert killed.summary["training"]["trained_steps"] == 16 * STEPS


def test_every_step_is_in_the_metrics_once_with_the_undisturbed_ones_data(killed, whole):
    got, expected = rows_of(killed.folder), rows_of(whole)
    assert [row["step"] for row in got] == list(range(1, STEPS + 1))
    starts = {row["resumed_at"] for row in got}
    for mine, theirs in zip(got, expected, strict=True):
        assert mine["resumed_at"] == max(start for start in starts if start < mine["step"])
        for name in ("tokens", "kept_steps", "label_entropy", "learning_rate"):
            assert mine[name] == theirs[name]
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_the_adapter_is_the_undisturbed_ones(killed, whole):
    """To 1e-5 of the largest weight: checkpoints hold weights and moments in float32, as they are."""
    got, expected = adapter_of(killed.folder), adapter_of(whole)
    largest = max(w.abs().max() for w in expected.values())
    difference = max((got[n] - expected[n]).abs().max() for n in expected)
    print(f"largest difference {difference:.1e} of {largest:.2f}")
    assert difference / largest < 1e-5


def test_the_answers_are_those_of_the_undisturbed_model(killed, whole):
    """Greedily by transformers, as its endpoint answers (test_serving.py)."""
    table = pq.read_table(killed.folder / "evaluation/demo.parquet").to_pylist()
    assert len(table) == 40
    tokenizer = AutoTokenizer.from_pretrained(whole / "model")
    model = AutoModelForCausalLM.from_pretrained(whole / "model", dtype="float32")
    chats = [[{"role": "user", "content": row["problem"]}] for row in table]
    prompts = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, return_tensors="pt", return_dict=True,
        padding=True, tokenizer_kwargs={"padding_side": "left"},
    )  # fmt: skip
    outputs = model.generate(**prompts, do_sample=False, max_new_tokens=128)
    tokens = outputs[:, prompts["input_ids"].shape[1] :]
    said = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    assert [row["improved_completion"] for row in table] == said


def test_nothing_secret_is_in_the_run_a_log_or_a_command_line(killed):
    logs = [re.search(r"^ray logs   (.+)$", d.output, re.MULTILINE) for d in killed.deaths]
    files = [path for found in logs for path in Path(found[1]).rglob("*") if path.is_file()]
    assert len(files) > 7 * len(killed.deaths)
    files += [path for path in killed.folder.rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert [death.told for death in killed.deaths if death.told] == []
    assert not any(SECRET in death.output for death in killed.deaths)


def test_summary_has_every_field_of_the_contract(killed):
    summary = killed.summary
    accuracy = summary["accuracy"]["demo"]
    assert accuracy.keys() >= {"expert", "improved", "difference", "difference_ci95", "problems"}
    assert accuracy["problems"] == 40
    assert accuracy["difference"] == pytest.approx(accuracy["improved"] - accuracy["expert"])
    assert (
        accuracy["difference_ci95"][0] <= accuracy["difference"] <= accuracy["difference_ci95"][1]
    )
    assert summary["sampling"].keys() >= {
        "problems", "rejected", "trajectories", "steps_scored", "steps_kept", "seconds",
    }  # fmt: skip
    assert summary["training"].keys() >= {
        "optimizer_steps", "trained_steps", "distinct_steps", "tokens_forward", "seconds",
        "final_loss",
    }  # fmt: skip
    assert summary["seconds_total"] > summary["training"]["seconds"]
    table = pq.read_table(killed.folder / "evaluation/demo.parquet")
    correct = table["improved_correct"].to_pylist()
    assert accuracy["improved"] == pytest.approx(sum(correct) / 40)
    run = json.loads((killed.folder / "run.json").read_text())
    assert run["config"]["sampling"]["max_problems"] == 64
    assert run.keys() >= {"config_hash", "versions", "models", "data", "schema_version"}
    assert run["models"]["expert"].keys() >= {"path", "fingerprint"}


def test_a_finished_run_is_not_recomputed(killed):
    there = lambda: {p: p.stat().st_mtime_ns for p in killed.folder.rglob("*") if p.name != ".lock"}  # noqa: E731
    before = there()
    again = run_here("full_pipeline", *killed.options)
    assert again.returncode == 0
    assert "finished before; nothing to do" in again.stdout
    assert before == there()


def test_another_config_on_the_run_is_refused(killed):
    result = run_here("full_pipeline", *killed.options, "--sampling.kl_threshold=0.3")
    assert result.returncode == 2
    assert "another sampling.kl_threshold = 0.1 (now 0.3), and labelling, training" in result.stderr
