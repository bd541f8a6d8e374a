"""The endpoint under load, against vLLM's own server on the same model, in turns.

    python benchmarks/serving.py [--model DIR] [--concurrency 1 8 32] [--requests 96] [--rounds 2]

Without --model, SmolLM2-135M (`recipes/smollm2.py`). Each server is alone while it is measured, with
the same engine settings and threads, on loopback; the client is one process beside it. Prints requests
and tokens per second, latency percentiles, and the ratio of the two servers' throughputs.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lr_ray import embedded, serving
from lr_ray.config import Place, Resources, Serving
from lr_ray.runtime.cluster import cluster
from lr_ray.serving.application import model_options

NAME = "expert"
OURS, THEIRS = "lr_ray", "vLLM's server"
START_S = 300
REQUEST_S = 300


@contextlib.contextmanager
def ours(model: str, settings: Serving, place: Place) -> Iterator[str]:
    with cluster():
        url = serving.start({NAME: model}, settings, Resources(server=place))
        try:
            yield url
        finally:
            serving.stop()


@contextlib.contextmanager
def theirs(model: str, settings: Serving, place: Place) -> Iterator[str]:
    """vLLM's server with the engine arguments and the environment of our replicas."""
    options = model_options(NAME, model, settings, place)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", NAME, "--host", settings.host, "--port", str(settings.port)]
    command += flags(options["engine_kwargs"])
    command += ["--disable-uvicorn-access-log"]
    environment = {
        k: v for k, v in options["runtime_env"]["env_vars"].items() if not k.startswith("RAYLLM")
    }
    with tempfile.NamedTemporaryFile("w+", prefix="vllm-", suffix=".log") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | environment, start_new_session=True
        )
        try:
            _wait(server, f"http://{settings.host}:{settings.port}/health", log.name)
            yield serving.base_url(settings)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=60)


def flags(engine: Mapping[str, Any]) -> list[str]:
    """An engine's arguments as the command line of vLLM's server takes them."""
    found: list[str] = []
    for name, value in engine.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):  # "--flag False" would set it
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return found


def _wait(server: "subprocess.Popen[bytes]", url: str, log: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
            if response.status == 200:
                return
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"vLLM's server did not start:\n{Path(log).read_text()[-2000:]}")
        time.sleep(0.5)


async def load(url: str, prompts: list[str], concurrency: int, tokens: int) -> list[float]:
    """Seconds of each request; every answer has `tokens` tokens, so that all do the same work."""
    from openai import AsyncOpenAI

    waiting, seconds = iter(prompts), []
    async with AsyncOpenAI(
        base_url=url, api_key="none", max_retries=0, timeout=REQUEST_S
    ) as client:

        async def worker() -> None:
            for prompt in waiting:
                started = time.monotonic()
                response = await client.chat.completions.create(
                    model=NAME,
                    messages=[{"role": "user", "content": prompt}],
                    temperature=0,
                    max_tokens=tokens,
                    extra_body={"ignore_eos": True},
                )
                assert response.usage
                assert response.usage.completion_tokens == tokens
                seconds.append(time.monotonic() - started)

        await asyncio.gather(*(worker() for _ in range(concurrency)))
    return seconds


def measure(url: str, prompts: list[str], concurrency: int, tokens: int) -> dict[str, float]:
    started = time.monotonic()
    seconds = sorted(asyncio.run(load(url, prompts, concurrency, tokens)))
    wall = time.monotonic() - started
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {
        "requests": len(prompts) / wall,
        "tokens": len(prompts) * tokens / wall,
        "p50": cuts[49],
        "p90": cuts[89],
        "p99": cuts[98],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="model directory")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=96, help="at each concurrency above 1")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--gpus", type=float, default=0)
    args = parser.parse_args()
    if args.model is None:
        from smollm2 import make_pair

        args.model = str(make_pair()[0])
    settings = Serving(dtype=args.dtype, max_model_len=512, port=args.port)
    place = Place(gpus=args.gpus)
    prompts = [row["problem"] for row in embedded.generate("heldout", args.requests, seed=7)]
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for number in range(args.rounds):
        # The order turns, so that neither is always the one on the warmer machine.
        for name, server in ((OURS, ours), (THEIRS, theirs))[:: 1 if number % 2 == 0 else -1]:
            with server(args.model, settings, place) as url:
                measure(url, prompts[:8], 4, args.tokens)  # warm-up
                for concurrency in args.concurrency:
                    some = prompts[: max(4, args.requests // 12)] if concurrency == 1 else prompts
                    result = measure(url, some, concurrency, args.tokens)
                    found.setdefault((name, concurrency), []).append(result)
                    print(
                        f"round {number + 1} {name} {concurrency}: {json.dumps(result)}", flush=True
                    )
    print("\n| concurrency | server | requests/s | tokens/s | p50 s | p90 s | p99 s |")
    print("|---|---|---|---|---|---|---|")
    best = {of: max(rounds, key=lambda r: r["requests"]) for of, rounds in found.items()}
    for concurrency in args.concurrency:
        for name in (OURS, THEIRS):
            row = best[name, concurrency]
            print(
                f"| {concurrency} | {name} | {row['requests']:.2f} | {row['tokens']:.0f} | "
                f"{row['p50']:.3f} | {row['p90']:.3f} | {row['p99']:.3f} |"
            )
    print("\nthroughput, lr_ray against vLLM's server (each server's better round):")
    for concurrency in args.concurrency:
        ratio = best[OURS, concurrency]["requests"] / best[THEIRS, concurrency]["requests"]
        print(f"concurrency {concurrency}: {ratio:.2f}")


if __name__ == "__main__":
    main()
