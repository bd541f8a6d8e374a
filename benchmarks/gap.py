"""How close may the two models be: what a probe says of amateurs, and what each of them teaches.

    python -m recipes.embedded_pair.recipe --out runs/gap --careless-steps 0 2 4 8 12 20 40 80
    python benchmarks/gap.py --amateurs runs/gap --out runs/gap-study [--problems 500] [--seeds 0 1]

The demo's method for the embedded expert with each amateur, in one process on one thread: transformers for
both models, the package's scoring, labels and packed training. A line a training goes to gap.jsonl as it is
finished, and what is there is not done again. Prints each amateur's probe figures and its gain on held-out
problems, the rank correlation (Spearman's) of each figure with the gain, and draws gap.svg and gap.png.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of tiny matrices only wait

import numpy as np
import pyarrow as pa
import torch
from rules import train
from transformers import AutoModelForCausalLM

from lr_ray.config import Config, merge, read_tree, resolve
from lr_ray.embedded import expert_path, generate
from lr_ray.evaluation.statistics import pooled_difference
from lr_ray.experiments.table import markdown
from lr_ray.grading.reading import extract_answer
from lr_ray.labelling.label import Labelled, supervise
from lr_ray.labelling.scores import score
from lr_ray.models.models import load_tokenizer, render_prompt, stop_token_ids
from lr_ray.report.page.charts import plain
from lr_ray.report.probe import figures
from lr_ray.run.schemas import REJECTED, TRAJECTORY, lists
from lr_ray.run.store import Run

EXPERT = str(expert_path())
TOKENIZER, STOPS = load_tokenizer(EXPERT), stop_token_ids(EXPERT)
BATCH = 125
PROBED = 64  # problems of a probe
# Label entropy (nats), share above 0.1 nats and gain (points, with its interval) of pairs that other commands
# measure, for the plot: docs/probe.md and docs/results.md.
REAL = {"real pair": (0.24, 0.23, 0.0, (-5.5, 5.5))}


def load(path: str):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@torch.inference_mode()
def decode(model, prompts: list[list[int]], most: int) -> list[list[int]]:
    """Greedy completions, the token that ends one included."""
    completions: dict[int, list[int]] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        inputs = TOKENIZER.pad(
            {"input_ids": [prompts[i] for i in part]}, padding_side="left", return_tensors="pt"
        )
        given = model.generate(
            **inputs, max_new_tokens=most, do_sample=False,
            eos_token_id=STOPS, pad_token_id=TOKENIZER.pad_token_id,
        )  # fmt: skip
        for i, row in zip(part, given[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            ends = [place for place, token in enumerate(row) if token in STOPS]
            completions[i] = row[: ends[0] + 1] if ends else row
    return [completions[i] for i in range(len(prompts))]


@torch.inference_mode()
def logprobs(model, prompts: list[list[int]], completions: list[list[int]]) -> list[np.ndarray]:
    """Of every token at each step of a completion, float32 [steps, vocabulary]."""
    found = []
    for start in range(0, len(prompts), BATCH):
        pairs = list(zip(prompts, completions, strict=True))[start : start + BATCH]
        inputs = TOKENIZER.pad(
            {"input_ids": [p + c for p, c in pairs]}, padding_side="right", return_tensors="pt"
        )
        logits = model(**inputs).logits
        found += [
            row[len(p) - 1 : len(p) + len(c) - 1].log_softmax(-1).numpy()
            for row, (p, c) in zip(logits, pairs, strict=True)
        ]
    return found


def solved(model, problems: list[dict[str, str]], most: int) -> list[bool]:
    prompts = [render_prompt(TOKENIZER, p["problem"], None) for p in problems]
    texts = TOKENIZER.batch_decode(decode(model, prompts, most), skip_special_tokens=True)
    return [extract_answer(t, "demo") == p["answer"] for t, p in zip(texts, problems, strict=True)]


class Sampled:
    """The expert's trajectories and what it says of each step."""

    def __init__(self, config: Config, path: str = EXPERT) -> None:
        self.sampling, skip = config.sampling, config.data.skip or 0
        self.problems = generate("sampling", skip + config.sampling.max_problems)[skip:]
        self.prompts = [render_prompt(TOKENIZER, p["problem"], None) for p in self.problems]
        expert = load(path)
        self.completions = decode(expert, self.prompts, config.sampling.max_new_tokens)
        self.expert = logprobs(expert, self.prompts, self.completions)

    def scores(self, amateur) -> pa.Table:
        """Columns of `schemas.SCORES`, of the whole vocabulary."""
        theirs = logprobs(amateur, self.prompts, self.completions)
        orders = [np.argsort(-log_p, axis=1, kind="stable") for log_p in self.expert]
        in_order = lambda rows: lists(  # noqa: E731
            [np.take_along_axis(r, o, 1).ravel() for r, o in zip(rows, orders, strict=True)],
            pa.float32(),
        )
        width, count = self.expert[0].shape[1], len(self.problems)
        columns = {
            "index": range(count),
            "problem_id": [p["problem_id"] for p in self.problems],
            "file": ["demo"] * count,
            "row": range(1, count + 1),
            "prompt_token_ids": lists(self.prompts, pa.int32()),
            "completion_token_ids": lists(self.completions, pa.int32()),
            "finish_reason": ["stop" if c[-1] in STOPS else "length" for c in self.completions],
            "counts": lists([[width] * len(c) for c in self.completions], pa.int32()),
            "topk_token_ids": lists([order.ravel() for order in orders], pa.int32()),
            "expert_logprobs": in_order(self.expert),
            "error": [None] * count,
        }
        table = pa.table([pa.array(columns[f.name], f.type) for f in TRAJECTORY], TRAJECTORY)
        table = table.append_column("amateur_logprobs", in_order(theirs))
        return score(table, self.sampling.plausibility, width).scores


def labelled_of(scores: pa.Table, config: Config) -> Labelled:
    return supervise(scores, config.sampling, REJECTED.empty_table(), [])


def trained(supervision: pa.Table, config: Config, seed: int, expert: str = EXPERT):
    """The improved expert, merged."""
    seeded = config.training.model_copy(update={"seed": seed})
    with tempfile.TemporaryDirectory(prefix="lr_ray-") as folder:
        Run(folder).write_table("supervision/part-0.parquet", supervision)
        return train(Run(folder), config.model_copy(update={"training": seeded}), expert)[0]


def study(folders: dict[str, str], config: Config, seeds: list[int], held_out: int, out: Path):
    """Rows of gap.jsonl, one an amateur and seed."""
    file = out / "gap.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    missing = [
        n for n in folders if {(n, s) for s in seeds} - {(r["name"], r["seed"]) for r in rows}
    ]
    if not missing:
        return rows
    most = config.evaluation.max_new_tokens
    problems = generate("heldout", held_out, config.evaluation.seed)
    sampled, before = Sampled(config), solved(load(EXPERT), problems, most)
    for name in missing:
        amateur = load(folders[name])
        scores, theirs = sampled.scores(amateur), solved(amateur, problems, most)
        labelled = labelled_of(scores, config)
        probes = {
            "figures": figures(scores, config.sampling),
            "probe": figures(scores.slice(0, PROBED), config.sampling),
        }
        for seed in seeds:
            if (name, seed) in {(r["name"], r["seed"]) for r in rows}:
                continue
            after = before
            if labelled.facts.steps_kept:
                after = solved(trained(labelled.good, config, seed), problems, most)
            row = {"name": name, "seed": seed, **probes, "amateur": float(np.mean(theirs))}
            row |= {"before": before, "after": after}
            rows.append(row)
            with file.open("a") as sink:
                sink.write(json.dumps(row) + "\n")
            print(f"{name}, seed {seed}: {np.mean(before):.1%} to {np.mean(after):.1%}", flush=True)
    return rows


def predictors(figures: dict, gap: float) -> dict[str, float]:
    """What might say how much an amateur teaches, by the name that the table has for it."""
    disagreement = figures["disagreement"] or 0.0
    return {
        "accuracy gap": gap,
        "kept": figures["kept"],
        "KL .5": figures["kl"]["0.5"],
        "KL .9": figures["kl"]["0.9"],
        "KL .95": figures["kl"]["0.95"],
        "KL .99": figures["kl"]["0.99"],
        "label entropy": figures["entropy"]["mean"] or 0.0,
        "another token": disagreement,
        "kept times another token": figures["kept"] * disagreement,
    }


def by_amateur(rows: list[dict], which: str) -> dict[str, tuple[dict[str, float], dict]]:
    """Predictors and the difference over all seeds, by the amateur's name, from the smallest gain on."""
    found = {}
    for name in dict.fromkeys(row["name"] for row in rows):
        some = [row for row in rows if row["name"] == name]
        gap = float(np.mean(some[0]["before"])) - some[0]["amateur"]
        gain = pooled_difference(some[0]["before"], [row["after"] for row in some], 0)
        found[name] = (predictors(some[0][which], gap), gain)
    return dict(sorted(found.items(), key=lambda item: item[1][1]["difference"]))


def rank_correlation(one: list[float], other: list[float]) -> float:
    """Spearman's: of the ranks, equal values sharing the mean of theirs."""
    ranks = [
        [(values < v).sum() + (values == v).sum() / 2 for v in values]
        for values in (np.array(one), np.array(other))
    ]
    return float(np.corrcoef(ranks)[0, 1])


def show(rows: list[dict]) -> None:
    for which, of in (("probe", f"the first {PROBED} problems"), ("figures", "all problems")):
        found = by_amateur(rows, which)
        names = list(next(iter(found.values()))[0])
        table = []
        for name, (said, gain) in found.items():
            low, high = (100 * bound for bound in gain["difference_ci95"])
            cells = [f"{v:.3f}" for v in said.values()]
            table.append(
                [name, *cells, f"{100 * gain['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"]
            )
        print(f"\nprobe figures of {of}\n")
        print("\n".join(markdown(["amateur", *names, "gain, points"], table)))
        gains = [gain["difference"] for _, gain in found.values()]
        ranked = {n: rank_correlation([p[n] for p, _ in found.values()], gains) for n in names}
        print("\nrank correlation with the gain")
        for name, value in sorted(ranked.items(), key=lambda item: -item[1]):
            print(f"{name:<24} {value:+.2f}")


def draw(rows: list[dict], out: Path) -> None:
    """Gain against the share of steps above 0.1 nats, coloured by label entropy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    points = {
        name: (said["label entropy"], said["kept"], 100 * gain["difference"],
               [100 * bound for bound in gain["difference_ci95"]])
        for name, (said, gain) in by_amateur(rows, "figures").items()
    } | REAL  # fmt: skip
    figure, axis = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    entropies, shares, gains, bounds = zip(*points.values(), strict=True)
    kept = [100 * share for share in shares]
    below, above = zip(
        *((g - b[0], b[1] - g) for g, b in zip(gains, bounds, strict=True)), strict=True
    )
    axis.errorbar(kept, gains, yerr=[below, above], fmt="none", ecolor="#b0b0b0", capsize=3)
    dots = axis.scatter(kept, gains, c=entropies, cmap="viridis", zorder=3)
    for place, gain, name in zip(kept, gains, points, strict=True):
        label = plain(name.removeprefix("amateur-"))
        axis.annotate(label, (place, gain), xytext=(5, 4), textcoords="offset points", fontsize=7)
    figure.colorbar(dots, label="mean entropy of the labels, nats")
    axis.axhline(0, color="#6b6b6b", linewidth=0.8)
    axis.set(xlabel="steps above 0.1 nats, % of all", ylabel="gain on held-out problems, points")
    with plt.rc_context({"svg.hashsalt": "lr_ray"}):
        figure.savefig(out / "gap.svg", metadata={"Date": None})
    figure.savefig(out / "gap.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--amateurs", type=Path, required=True, help="folder of the amateurs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=500, help="to sample")
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = resolve(merge(read_tree("demo"), {"sampling": {"max_problems": args.problems}}))
    folders = {"the-expert-itself": EXPERT}
    folders |= {
        p.name: str(p) for p in sorted(args.amateurs.iterdir()) if (p / "config.json").exists()
    }
    args.out.mkdir(parents=True, exist_ok=True)
    rows = study(folders, config, args.seeds, args.held_out, args.out)
    show(rows)
    draw(rows, args.out)


if __name__ == "__main__":
    main()
