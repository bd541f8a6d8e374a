"""A run directory as the stages leave it, with made-up trajectories and answers, for what reads runs."""

import json
import math
import random
from typing import Any

import numpy as np
import pyarrow as pa

from lr_ray.config import Config, merge, read_tree, resolve
from lr_ray.embedded import expert_path, generate
from lr_ray.evaluation.results import LABELS, PARTS, summarise
from lr_ray.labelling.label import supervise
from lr_ray.models.models import load_tokenizer, render_prompt
from lr_ray.problems import PROBLEM
from lr_ray.run.schemas import REJECTED, SCORES
from lr_ray.run.store import SCHEMA_VERSION, Run

THRESHOLD = 0.3
OPENING = "<b>\u96e8</b> \u00e9 "  # markup, and characters of several tokens each
_WORDS = (
    "we", "need", "to", "find", "how", "many", "each", "of", "the", "total", "then", "so", "let", "x", "be",
    "number", "is", "therefore", "half", "as", "twice", "more", "than", "gives", "both", "sides", "by",
)  # fmt: skip
_END = "<|im_end|>"


def made_up(
    run: Run, problems: int = 40, trajectories: int = 30, words: int = 12
) -> dict[str, Any]:
    """Writes all but the page, and returns summary.json. `words`: of an answer, on average."""
    run.create()
    config = resolve(merge(read_tree("demo"), {"sampling": {"kl_threshold": THRESHOLD}}))
    rng = random.Random(0)
    sampling = _sample(run, config, trajectories, rng)
    training = _train(run, rng)
    table = answers(problems, words, rng)
    run.write_table("evaluation/demo.parquet", table)
    found = {
        "sampling": sampling,
        "training": training,
        "accuracy": {"demo": summarise(table, LABELS, 0)},
        "serving": {"seconds": 12.0},
        "evaluation": {"answers": 2 * problems, "seconds": 30.0, "conditions": _conditions()},
        "seconds_total": 110.0,
    }
    run.write_json("summary.json", found)
    run.write_json("run.json", _asked(config))
    return found


def answers(problems: int, words: int, rng: random.Random) -> pa.Table:
    """Of the two models of a run: gained, lost, right by both, wrong by both, cut and refused ones."""
    columns: dict[str, list[Any]] = {n: [] for n in ("problem_id", "problem", "expected", "sample")}
    columns |= {f"{label}_{part}": [] for label in LABELS for part in PARTS}
    for i in range(problems):
        shared = {"problem_id": f"made-up/{i:05d}", "problem": f"<i>{i}</i>? {_text(30, rng)}"}
        for name, value in {**shared, "expected": str(i), "sample": 0}.items():
            columns[name].append(value)
        for label, right in zip(
            LABELS, [(0, 1), (0, 1), (1, 0), (1, 1), (0, 0)][i % 5], strict=True
        ):
            ends = (
                {8: "length", 9: "refused"}.get(i % 20, "stop") if label == "improved" else "stop"
            )
            answer = str(i) if right else None if ends != "stop" else str(i + 1)
            said = (
                f"{_text(max(3, round(rng.gauss(words, words / 3))), rng)} The answer is {answer}."
            )
            verdict = "same text" if right else "different"
            for part, value in zip(PARTS, (said, answer, bool(right), verdict, ends), strict=True):
                columns[f"{label}_{part}"].append(value)
    return pa.table(columns)


def _text(words: int, rng: random.Random) -> str:
    return " ".join(
        str(rng.randint(2, 999)) if rng.random() < 0.25 else rng.choice(_WORDS)
        for _ in range(words)
    )


def _sample(run: Run, config: Config, count: int, rng: random.Random) -> dict[str, Any]:
    tokenizer = load_tokenizer(str(expert_path()))
    rows = generate("sampling", count, 0)
    names = {"file": "demo", "row": 1}
    shown = [
        {"problem_id": r["problem_id"], "problem": r["problem"], "answer": r["answer"]} | names
        for r in rows
    ]
    run.write_table("problems/part-00000.parquet", pa.Table.from_pylist(shown, schema=PROBLEM))
    scores = []
    for i, row in enumerate(rows):
        said = OPENING + _text(rng.randint(5, 40), rng) + _END
        ids = tokenizer(said, add_special_tokens=False)["input_ids"]
        steps = [_step(token, rng) for token in ids]
        scores.append(
            {
                "index": i,
                **names,
                "problem_id": row["problem_id"],
                "prompt_token_ids": render_prompt(tokenizer, row["problem"], None),
                "completion_token_ids": ids,
                "finish_reason": "length" if i % 5 == 0 else "stop",
                "kl": [kl for kl, _ in steps],
                "plausible": [plausible for _, plausible in steps],
                "steps_completed": 0,
                "expert_residual": 0.0,
                "amateur_residual": 0.0,
            }
        )
    table = pa.Table.from_pylist(scores, schema=SCORES)
    run.write_table("scores/part-0.parquet", table)
    labelled = supervise(table, config.sampling, REJECTED.empty_table(), [])
    run.write_table("supervision/part-0.parquet", labelled.good)
    facts = labelled.facts
    counted = {"problems": count, "trajectories": count, "rejected": 0, "seconds": 40.0}
    return counted | {"steps_scored": facts.steps_scored, "steps_kept": facts.steps_kept}


def _step(token: int, rng: random.Random) -> tuple[float, dict[str, list[float]]]:
    """KL and plausible set: the token alone, or with another one that the amateur finds as probable or less."""
    p = rng.uniform(0.5, 0.99)
    q = p if rng.random() < 0.7 else rng.uniform(0.05, p)
    kl = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    ids, pairs = ([token], [(p, q)])
    if p < 0.75:
        ids, pairs = [token, 300 + token % 200], [(p, q), (1 - p - 0.01, (1 - q) / 20)]
    logs = np.log(np.array(pairs))
    return kl, {
        "token_ids": ids,
        "expert_logprobs": logs[:, 0].tolist(),
        "amateur_logprobs": logs[:, 1].tolist(),
    }


def _train(run: Run, rng: random.Random) -> dict[str, Any]:
    rows = [
        {
            "step": i, "loss": 0.9 - i / 200 + rng.gauss(0, 0.05), "support_probability": 0.9, "grad_norm": 0.3,
            "learning_rate": 1e-3 * (1 - i / 60), "label_entropy": 0.4, "kept_steps": 16, "tokens": 900,
            "seconds": 0.2, "workers": 1, "resumed_at": 0 if i <= 25 else 25,
        }
        for i in range(1, 51)
    ]  # fmt: skip
    run.write_bytes("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    return {
        "optimizer_steps": 50, "trained_steps": 800, "distinct_steps": 700, "tokens_forward": 45000,
        "final_loss": 0.65, "seconds": 20.0, "workers": 1,
    }  # fmt: skip


def _conditions() -> dict[str, Any]:
    return {
        "system_prompt": None, "prefill": None, "max_new_tokens": 128, "temperature": 0.0, "stop": [],
        "stop_token_ids": [load_tokenizer(str(expert_path())).eos_token_id],
    }  # fmt: skip


def _asked(config: Config) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "config": config.model_dump(mode="json"),
        "versions": {"lr_ray": "0"},
        "models": {
            role: {"path": f"embedded:{role}", "fingerprint": "0f"}
            for role in ("expert", "amateur")
        },
        "digests": {"decoding": "ab"},
    }
