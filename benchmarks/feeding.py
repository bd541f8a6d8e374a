"""How full an expert's engine is kept: a batch at a time, several in flight, and everything at once.

    python benchmarks/feeding.py --pair embedded --problems 512
    python benchmarks/feeding.py --pair smollm2 --problems 48 --batch-size 12 --rounds 1 --data-dir DIR

DIR holds gsm8k/train.jsonl.

One process, one engine, no Ray; the ways take turns over the same problems. Throughput is told as a share
of that of one call with everything in the same round, by seconds and by CPU seconds, which other
work on the machine does not change. Empty is the share of the engine's room (the sequences that it
decodes at once) without a sequence, over all of a way's seconds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from in_process import Told, model_paths
from sampling import configure

from lr_ray.engines.engine import Generate
from lr_ray.engines.vllm import Steps, VllmEngine
from lr_ray.models.models import engine_room, render_prompt
from lr_ray.problems import read_problems, stage_problems
from lr_ray.run.store import Run
from lr_ray.sampling.expert import ExpertSampler

AT_ONCE = "everything at once"


class Feeder:
    """An expert's engine and the prompts that it is fed with."""

    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        config, run = configure(args.pair, args.problems, args.data_dir), Run(folder)
        if args.batch_size:
            sampling = config.sampling.model_copy(update={"batch_size": args.batch_size})
            config = config.model_copy(update={"sampling": sampling})
        stage_problems(run, config)
        paths, self.told = model_paths(config), Told()
        room = engine_room(*paths, config.sampling)
        self.sampler = ExpertSampler(paths[0], config, room, run, self.told)
        assert isinstance(self.sampler.engine, VllmEngine)
        self.engine = self.sampler.engine
        self.size = config.sampling.batch_size
        texts = read_problems(run, np.arange(args.problems))["problem"].to_pylist()
        system = config.sampling.system_prompt
        self.prompts = [render_prompt(self.sampler.tokenizer, text, system) for text in texts]

    def feed(self, in_flight: int) -> None:
        """All prompts, in batches of which so many are worked on at once."""

        def batch(start: int) -> None:
            self.engine.rank(start)
            self.sampler.solve(self.prompts[start : start + self.size])

        with ThreadPoolExecutor(in_flight) as threads:
            list(threads.map(batch, range(0, len(self.prompts), self.size)))

    def at_once(self) -> None:
        """All go in, and the engine steps until none is left, as vLLM's `LLM.generate` has it."""
        asked = Generate([], self.sampler.sampling.max_new_tokens, self.sampler.k)
        params = self.engine.params(asked)
        steps = Steps(self.engine.llm_engine)
        for number, ids in enumerate(self.prompts):
            steps.add(str(number), ids, params)
        while steps.llm_engine.has_unfinished_requests():
            steps.step()

    def measure(self, work: Callable[[], None]) -> tuple[float, float, float]:
        """Seconds, CPU seconds, and the share of the engine's room that was empty."""
        self.engine.llm_engine.reset_prefix_cache()
        before, started, cpu = self.told.said["filled_s"], time.monotonic(), time.process_time()
        work()
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
        time.sleep(0.1)  # the loop tells once it has nothing to do
        return seconds, cpu, 1 - (self.told.said["filled_s"] - before) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=("embedded", "smollm2"), default="embedded")
    parser.add_argument("--problems", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--batch-size", type=int, help="problems a batch; the pair's own if not given"
    )
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--data-dir", help="folder of gsm8k/train.jsonl, for --pair smollm2")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lr_ray-") as folder:
        feeder = Feeder(args, folder)
        ways: dict[str, Callable[[], None]] = {
            f"{n} in flight": partial(feeder.feed, n) for n in args.in_flight
        }
        ways[AT_ONCE] = feeder.at_once
        feeder.sampler.solve(feeder.prompts[: feeder.size])  # warms up
        rounds = []
        for _ in range(args.rounds):
            rounds.append({name: feeder.measure(work) for name, work in ways.items()})
            print({name: f"{found[0]:.1f} s" for name, found in rounds[-1].items()}, flush=True)
    room = feeder.engine.loop.engine.room
    print(f"{args.pair}, {args.problems} problems, batches of {feeder.size}, room for {room}")
    for name in ways:
        wall, cpu = (statistics.median(r[AT_ONCE][i] / r[name][i] for r in rounds) for i in (0, 1))
        empty = statistics.median(r[name][2] for r in rounds)
        told = "" if name == AT_ONCE else f", {empty:.0%} of the room empty"
        print(f"{name:20} throughput {wall:.2f}, by CPU time {cpu:.2f}{told}")


if __name__ == "__main__":
    main()
