r"""How far models move from their expert: the method, rejection sampling, and a mere prompt, in one process.

    lr-ray sample --config demo --run runs/demo
    python benchmarks/drift.py --run runs/demo [--problems 200] [--samples 8] [--out runs/drift]

What a comparison of benchmarks/drift.yaml measures, for models as small as the embedded ones, without Ray and
vLLM (see benchmarks/rules.py). Answers are sampled at temperature 0.7.
"""

import argparse
from typing import Any

import pyarrow as pa
import torch
from rules import decode, train

from lr_ray.audit.drift import drift
from lr_ray.config import Config, changed, merge, resolve
from lr_ray.evaluation.answers import Answer
from lr_ray.evaluation.evaluate import grade
from lr_ray.evaluation.results import LABELS, summarise
from lr_ray.evaluation.tasks import Task, load_tasks
from lr_ray.experiments.table import markdown
from lr_ray.grading.pool import Graders
from lr_ray.labelling.shards import write_shard
from lr_ray.method.oracle import load
from lr_ray.models.models import load_tokenizer, render_prompt, resolve_model
from lr_ray.pipeline.sharing import share
from lr_ray.problems import PROBLEM
from lr_ray.run.schemas import SOLUTIONS
from lr_ray.run.store import Run, read_asked
from lr_ray.sampling.rejection import keep_right
from lr_ray.sampling.sample import finish

TEMPERATURE, PREFILL = 0.7, "Step by step."


def solutions(source: Run, config: Config, expert: str) -> pa.Table:
    """Columns of SOLUTIONS: the expert's sampled solutions of the run's problems."""
    tokenizer, asked = load_tokenizer(expert), config.sampling.rejection
    problems = source.read_tables(source.shards("problems"), PROBLEM).to_pylist()
    prompts = [render_prompt(tokenizer, p["problem"], None) for p in problems]
    torch.manual_seed(config.sampling.seed)
    drawn = decode(load(expert), expert, prompts, asked.samples, asked.temperature)
    end = tokenizer.eos_token_id
    rows = []
    for i, (problem, prompt) in enumerate(zip(problems, prompts, strict=True)):
        mine = drawn[i * asked.samples : (i + 1) * asked.samples]
        rows.append(
            {name: problem[name] for name in ("problem_id", "file", "row", "answer")}
            | {"index": i, "prompt_token_ids": prompt, "completions": [[*c, end] for c in mine]}
            | {"finish_reasons": ["stop" if len(c) < 128 else "length" for c in mine]}
        )
    return pa.Table.from_pylist(rows, SOLUTIONS)


def answers(model: Any, path: str, task: Task, samples: int, prefill: str = "") -> list[Answer]:
    tokenizer = load_tokenizer(path)
    begun = tokenizer(prefill, add_special_tokens=False)["input_ids"] if prefill else []
    prompts = [[*render_prompt(tokenizer, row["problem"], None), *begun] for row in task.rows]
    torch.manual_seed(0)
    said = decode(model, path, prompts, samples, TEMPERATURE)
    ends = ["stop" if len(ids) < 128 else "length" for ids in said]
    texts = [prefill + tokenizer.decode(ids) for ids in said]
    return [Answer(text, end) for text, end in zip(texts, ends, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="whose scores and problems are trained on")
    parser.add_argument("--problems", type=int, default=200, help="held-out ones, of the demo")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--out", default="runs/drift")
    args = parser.parse_args()
    torch.set_num_threads(1)
    source, out = Run(args.run), Run(args.out)
    asked = {"max_problems": args.problems, "samples": args.samples, "temperature": TEMPERATURE}
    config = resolve(merge(read_asked(source)["config"], {"evaluation": asked | {"drift": 4096}}))
    rejected = changed(config, {"sampling.method": "rejection", "training.batch_by": "trajectory"})
    expert = resolve_model(config.models.expert, "models.expert")
    method, sft = out.child("lightreasoner"), out.child("sft")
    for run in (method, sft):
        run.create()
    share(source, method, ["decoding", "scoring"])
    finish(method, config)
    tokenizer = load_tokenizer(expert)
    text_of = lambda ids: tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
    right = keep_right(solutions(source, rejected, expert), text_of, config.data.source)
    write_shard(sft, "part-0.parquet", right, {})
    (task,) = load_tasks(config.evaluation)
    before = answers(load(expert), expert, task, args.samples)
    rows: list[list[str]] = []
    for name in ("lightreasoner", "sft", "prefilled expert"):
        run, path = out.child(name), expert
        if name == "prefilled expert":
            after = answers(load(expert), expert, task, args.samples, PREFILL)
        else:
            model, _ = train(run, rejected if name == "sft" else config, expert)
            path = run.path("model")
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)
            after = answers(model.eval(), expert, task, args.samples)
        with Graders() as graders:
            table = grade(task, {"expert": before, "improved": after}, graders)
        said = summarise(table, LABELS, config.evaluation.seed)
        moved = drift({"expert": expert, "improved": path}, table, config.evaluation)["models"]
        shown = zip(("expert, untouched", name), LABELS, strict=True)
        rows += [_row(n, said, moved, label) for n, label in shown if label != "expert" or not rows]
    head = ["model", "characters", "cut", "pass@1", f"pass@{args.samples}", "majority"]
    head += [f"gain at {args.samples} [95 %]", "KL", "perplexity", "entropy"]
    print("\n".join(markdown([*head, "expert's right", "own right"], rows)))


def _row(name: str, said: dict[str, Any], moved: dict[str, Any], label: str) -> list[str]:
    model, most = said["models"][label], str(said["samples"])
    shares = [model["accuracy"], model["pass_at_k"][most], model["majority"]]
    cells = [name, f"{model['characters']:.0f}", *(f"{s:.1%}" for s in [model["cut"], *shares])]
    gain = said["differences"].get(label, {}).get("pass_at_k", {}).get(most)
    low, high = gain["difference_ci95"] if gain else (0, 0)
    cells.append(f"{gain['difference']:+.1%} [{low:+.1%}, {high:+.1%}]" if gain else "-")
    part = moved[label]
    figures = [part["kl"], part["perplexity"], part["entropy"]]
    figures += [part["right_perplexity"][author] for author in ("expert", label)]
    return cells + ["-" if value is None else f"{value:.3g}" for value in figures]


if __name__ == "__main__":
    main()
