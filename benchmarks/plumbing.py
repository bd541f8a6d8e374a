"""What everything but the engines costs: stub engines that answer at once, through the real dataset graph.

    python benchmarks/plumbing.py --problems 2000 --engines 1 2

Trajectories of 128 steps with K = 256 log-probabilities go from the expert's actors over the amateur's to
the contrast tasks, and to shards on disk. CPU time is told by kind of process, so that a limit can be told
in trajectories a second and core, whatever else this machine does.
"""

import argparse
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch
from in_process import model_paths
from sampling import object_store_bytes

from lr_ray.config import Config, merge, read_tree, resolve
from lr_ray.engines.logprobs import StepLogprobs
from lr_ray.engines.loop import start_loop
from lr_ray.engines.vllm import VllmEngine
from lr_ray.run.store import Run
from lr_ray.runtime.cluster import cluster
from lr_ray.sampling import sample as stage

STEPS, K, DISTINCT = 128, 256, 16
KINDS = {
    "StubExpert": "expert's actors",
    "StubAmateur": "amateur's actors",
    "write_contrast": "contrast tasks",
    "raylet": "Ray's own",
    "gcs_server": "Ray's own",
    "ray::": "Ray's own",
}


def log_probabilities(rng: np.random.Generator) -> np.ndarray:
    """[STEPS, K] float32, most probable first; a share of them lies beyond K."""
    scores = np.sort(2 * rng.gumbel(size=(STEPS, K)), axis=1)[:, ::-1]
    scores[:, 0] += 0.5
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True)) + 0.001
    return scores.astype(np.float32)


class Instant(ABC):
    """An engine whose requests are finished with the next step."""

    room = 256

    def __init__(self) -> None:
        self.rng, self.names = np.random.default_rng(0), list[str]()

    def add(self, name: str, token_ids: list[int], params: Any) -> None:
        self.names.append(name)

    def step(self) -> list[Any]:
        names, self.names = self.names, []
        return [SimpleNamespace(request_id=n, outputs=self.answer(int(n))) for n in names]

    @abstractmethod
    def answer(self, number: int) -> Any: ...

    def abort(self, names: list[str]) -> None:
        self.names = [name for name in self.names if name not in names]

    def tokens_under_way(self) -> int:
        return 0


class InstantExpert(Instant):
    def __init__(self) -> None:
        super().__init__()
        self.answers = []
        for _ in range(DISTINCT):
            ids = self.rng.permuted(np.tile(np.arange(590), (STEPS, 1)), axis=1)[:, : K + 1]
            steps, values = StepLogprobs(STEPS, K), log_probabilities(self.rng)
            steps.append(ids, np.concatenate([values[:, :1], values], axis=1))
            self.answers.append(
                SimpleNamespace(
                    token_ids=steps.token_ids[:, 0].tolist(), logprobs=steps, finish_reason="stop"
                )
            )

    def answer(self, number: int) -> Any:
        return [self.answers[number % DISTINCT]]


class InstantAmateur(Instant):
    def __init__(self) -> None:
        super().__init__()
        values = (log_probabilities(self.rng) for _ in range(DISTINCT))
        self.answers = [torch.from_numpy(v.ravel()) for v in values]

    def answer(self, number: int) -> Any:
        return SimpleNamespace(data=self.answers[number % DISTINCT])


def start(role: str, model: str, config: Config, context: int, journal: Any) -> VllmEngine:
    """The engine of an actor, for `sampling.engine`."""
    instant = {"expert": InstantExpert, "amateur": InstantAmateur}[role]
    return VllmEngine(start_loop(role, model, journal, instant))


class Meter(threading.Thread):
    """CPU seconds by kind of process, and the largest memory of driver and object store."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.cpu: Any = Counter()  # of floats
        self.driver = self.store = 0
        self.known: dict[int, float] = {}
        self.on, self.ended = False, threading.Event()
        self.start()

    def run(self) -> None:
        me = psutil.Process()
        while not self.ended.wait(0.25):
            for process in (me, *me.children(recursive=True)):
                self._read(process, process.pid == me.pid)
            if self.on:
                self.driver = max(self.driver, me.memory_info().rss)
                self.store = max(self.store, object_store_bytes())

    def _read(self, process: psutil.Process, is_driver: bool) -> None:
        try:
            times, title = process.cpu_times(), " ".join(process.cmdline())
        except psutil.Error:
            return
        used = times.user + times.system
        spent = used - self.known.get(process.pid, used)
        self.known[process.pid] = used
        if self.on:
            kind = next((kind for part, kind in KINDS.items() if part in title), "Ray's own")
            self.cpu["driver" if is_driver else kind] += spent


def configure(problems: int, engines: int) -> Config:
    pool = {"min_engines": engines, "max_engines": engines}
    sampling: dict[str, Any] = {"max_problems": problems, "top_k": K, "max_new_tokens": STEPS}
    sampling |= {"kl_threshold": 0.85, "expert": pool, "amateur": pool}
    sampling |= {"engine": "plumbing:start"}
    places = {"expert": {"gpus": 0, "cpus": 0.1}, "amateur": {"gpus": 0, "cpus": 0.1}}
    return resolve(merge(read_tree("demo"), {"sampling": sampling, "resources": places}))


def measure(problems: int, engines: int, folder: Path) -> None:
    config, seen, meter = configure(problems, engines), [], Meter()

    def on_progress(_: int, facts: Any, shard: str | None) -> None:
        seen.append((time.monotonic(), facts.problems))
        meter.on = facts.problems > 0

    with cluster():
        summary = stage.sample(Run(str(folder)), config, *model_paths(config), on_progress)
        meter.ended.set()
        meter.join()  # it asks the cluster
    (start, before), (end, done) = seen[1], seen[-1]
    count, seconds = done - before, end - start
    total = sum(meter.cpu.values())
    exchanged = STEPS * K * (8 + 12) / 1e6  # MB: ids and one model's values, then both's
    disk = sum(file.stat().st_size for file in folder.glob("*/part-*")) / 1e3 / done
    print(
        f"{problems} problems, {engines} engines a pool: {count / seconds:.0f} trajectories/s, "
        f"{exchanged * count / seconds:.0f} MB/s between actors, {disk:.1f} kB each on disk, "
        f"{summary['steps_kept'] / summary['steps_scored']:.0%} of the steps kept; driver "
        f"{meter.driver / 1e6:.0f} MB, object store {meter.store / 1e6:.0f} MB at most"
    )
    parts = ", ".join(f"{kind} {1000 * cpu / count:.2f}" for kind, cpu in meter.cpu.most_common())
    print(
        f"  {total / seconds:.1f} cores busy; ms of CPU a trajectory: {1000 * total / count:.2f} "
        f"({parts}), {count / total:.0f} trajectories/s and core",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=20_000)
    parser.add_argument("--engines", type=int, nargs="+", default=[1], help="engines a pool")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lr_ray-") as folder:
        for engines in args.engines:
            measure(args.problems, engines, Path(folder, str(engines)))


if __name__ == "__main__":
    main()
