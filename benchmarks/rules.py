r"""A grid of selection and label rules over the scores of one run, in one process: no engine, no Ray.

    lr-ray sample --config demo --run runs/demo
    python benchmarks/rules.py --run runs/demo --grid rules [--problems 500] [--out runs/rules]

Each variant and seed is labelled from the run's scores, trained by a plain torch loop on the same batches
(tests/integration/toy_backend.py, whose losses a test holds to DeepSpeed's), and asked greedily with
transformers. It is the comparison of `lr-ray compare --grid rules` at a tenth of its time for models as small
as the embedded ones, whose processes take longer to start than to work. Prints a table, and writes it and the
plot to --out. Goes on where it was stopped.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import numpy as np
import torch

from lr_ray.config import Config, resolve
from lr_ray.embedded import generate
from lr_ray.evaluation.statistics import pooled_difference
from lr_ray.experiments.grid import read_grid
from lr_ray.experiments.plan import Cell, make_plan
from lr_ray.experiments.plot import draw
from lr_ray.experiments.table import markdown
from lr_ray.grading.judging import is_correct
from lr_ray.grading.reading import extract_answer
from lr_ray.method.oracle import load
from lr_ray.models.files import vocabulary_rows
from lr_ray.models.models import load_tokenizer, render_prompt, resolve_model, stop_token_ids
from lr_ray.pipeline.sharing import share as take
from lr_ray.run.store import Run, read_asked
from lr_ray.sampling.sample import finish
from lr_ray.training.batches import collate, pack, plan, share
from lr_ray.training.data import Supervision
from lr_ray.training.export import place
from lr_ray.training.model import load_expert
from tests.integration.toy_backend import ToyBackend

Problems = list[dict[str, str]]


def train(run: Run, config: Config, expert: str) -> tuple[Any, int]:
    """The merged model of a run's supervision, and how many different steps it was trained on."""
    training = config.training
    with tempfile.TemporaryDirectory() as scratch:
        supervision = Supervision(run, vocabulary_rows(expert), scratch)
        torch.manual_seed(training.seed)
        backend, seen = ToyBackend(expert, training), set[tuple[int, ...]]()
        counts, by = supervision.step_counts, training.batch_by
        batches = plan(counts, training.batch_size, training.seed, by)
        for step, pairs in enumerate(itertools.islice(batches, int(training.optimizer_steps))):
            seen |= set(map(tuple, pairs.tolist()))
            parts = share(pack(supervision, pairs), 0, 1, training.micro_batch_tokens)
            backend.step(step, [collate(items) for items in parts], len(pairs))
    model = load_expert(
        expert, training
    )  # anew: the trained one has its attention laid out for packing
    with torch.no_grad():
        place(backend.full_weights(), model)
    return model.merge_and_unload(), len(seen)


@torch.inference_mode()
def decode(
    model: Any,
    path: str,
    prompts: list[list[int]],
    samples: int = 1,
    temperature: float = 0,
    at_once: int = 100,
) -> list[list[int]]:
    """At most 128 tokens after each prompt, `samples` times each, without the one that ends them."""
    stops, found = stop_token_ids(path), []
    sampled = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    for start in range(0, len(prompts), at_once):
        asked = prompts[start : start + at_once]
        longest = max(map(len, asked))
        said = model.generate(
            input_ids=torch.tensor([[stops[0]] * (longest - len(ids)) + ids for ids in asked]),
            attention_mask=torch.tensor(
                [[0] * (longest - len(ids)) + [1] * len(ids) for ids in asked]
            ),
            max_new_tokens=128,
            do_sample=bool(temperature),
            num_return_sequences=samples,
            eos_token_id=stops,
            pad_token_id=stops[0],
            **sampled,
        )
        for ids in said[:, longest:].tolist():
            end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
            found.append(ids[:end])
    return found


def solved(model: Any, path: str, problems: Problems) -> list[bool]:
    """Which problems the model solves greedily."""
    tokenizer = load_tokenizer(path)
    prompts = [render_prompt(tokenizer, p["problem"], None) for p in problems]
    texts = [tokenizer.decode(ids) for ids in decode(model, path, prompts)]
    return [
        is_correct(p["answer"], extract_answer(text, "demo"), "demo")
        for p, text in zip(problems, texts, strict=True)
    ]


def do(cell: Cell, source: Run, out: Run, expert: str, problems: Problems) -> None:
    """Labels, trains and asks a cell's model, and writes what came out."""
    target = out.child(cell.folder)
    target.create()
    if not target.shards("supervision"):
        take(source, target, ["decoding", "scoring"])
    sampling = finish(target, cell.config)
    model, distinct = train(target, cell.config, expert)
    training = cell.config.training
    facts = {
        "solved": solved(model.eval(), expert, problems),
        "kept": sampling["steps_kept"] if sampling else 0,
        "share": sampling["steps_kept"] / sampling["steps_scored"] if sampling else 0,
        "distinct": distinct,
        "trained": int(training.optimizer_steps) * training.batch_size,
    }
    target.write_json("found.json", facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="whose scores are labelled")
    parser.add_argument("--grid", default="rules")
    parser.add_argument("--problems", type=int, default=500, help="held-out ones, of the demo")
    parser.add_argument("--out", default="runs/rules")
    args = parser.parse_args()
    torch.set_num_threads(1)
    source, out = Run(args.run), Run(args.out)
    config = resolve(read_asked(source)["config"])
    grid, expert = (
        read_grid(args.grid, config),
        resolve_model(config.models.expert, "models.expert"),
    )
    problems = generate("heldout", args.problems, config.evaluation.seed)
    out.create()
    if not out.exists("expert.json"):
        out.write_json("expert.json", {"solved": solved(load(expert), expert, problems)})
    before = np.array(out.read_json("expert.json")["solved"], float)
    rows, table = {}, []
    cells = make_plan(config, grid).cells
    for cell in cells:
        if not out.child(cell.folder).exists("found.json"):
            do(cell, source, out, expert, problems)
            print(cell.name, flush=True)
    for variant in grid.variants:
        mine = [c for c in cells if c.variant == variant]
        found = [out.child(c.folder).read_json("found.json") for c in mine]
        pooled = pooled_difference(before, np.array([f["solved"] for f in found], float), seed=0)
        mean = {n: float(np.mean([f[n] for f in found])) for n in found[0] if n != "solved"}
        low, high = pooled["difference_ci95"]
        rows[variant.name] = {
            "accuracy": {"demo": pooled},
            "untrained": False,
            "value": variant.value,
            "cost": {"steps_kept_share": mean["share"]},
        }
        table.append([
            str(variant.value or variant.name),
            f"{pooled['accuracy']:.1%}",
            " ".join(f"{100 * a:.1f}" for a in pooled["accuracy_of_seeds"]),
            f"{100 * pooled['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
            f"{mean['kept']:.0f} ({mean['share']:.1%})",
            *(f"{mean[name]:.0f}" for name in ("distinct", "trained")),
        ])  # fmt: skip
    head = ["rule", "accuracy", "each seed", "minus expert [95 %]", "kept", "distinct", "trained"]
    text = "\n".join([
        f"Expert {before.mean():.1%} on {len(problems)} problems", "", *markdown(head, table), "",
    ])  # fmt: skip
    out.write_bytes("rules.md", text.encode())
    content = {"grid": {"name": grid.name, "x": grid.x}, "variants": rows}
    if grid.x:
        for kind, picture in draw(json.loads(json.dumps(content)), "demo").items():
            out.write_bytes(f"rules.{kind}", picture)
    print(f"{text}\n{Path(args.out)}")


if __name__ == "__main__":
    main()
