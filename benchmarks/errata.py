"""What some defects of the published code would do to a run: from its rows, without an engine.

    python benchmarks/errata.py --run RUN

Of the run's kept steps it tells how many have a prefix that decodes and tokenizes to other tokens, how many
have a label with added tokens, and how many stand at the first generated token. Of batches of 16 kept steps
drawn at random it tells how many rows end before the longest one, so that the last column is padding for
them. Of the amateur it tells how many tokens it reads when it is run once for each prefix, against one
forward over each trajectory. docs/errata.md says why each matters.
"""

import argparse
from typing import Any

import numpy as np

from lr_ray.config import Config, resolve
from lr_ray.models.models import load_tokenizer, resolve_model
from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run, read_asked

_BATCH, _BATCHES = 16, 1000  # the paper's batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="a run that has sampled")
    run = Run(parser.parse_args().run)
    config = resolve(read_asked(run)["config"], Config)
    tokenizer = load_tokenizer(resolve_model(config.models.expert, "models.expert"))
    rows = run.read_tables(run.shards("supervision"), SUPERVISION).to_pylist()
    kept = [(row, step) for row in rows for step in row["steps"]]
    print(f"{len(rows)} trajectories, {len(kept)} kept steps")
    told = {
        "prefix tokenizes to other tokens": [_differs(tokenizer, r, s) for r, s in kept],
        "label has added tokens": [max(s["token_ids"]) >= tokenizer.vocab_size for _, s in kept],
        "at the first generated token": [s["position"] == 0 for _, s in kept],
    }
    for what, found in told.items():
        print(f"{what:<50} {sum(found)} ({np.mean(found):.2%})")
    lengths = np.array([len(r["prompt_token_ids"]) + s["position"] for r, s in kept])
    drawn = np.random.default_rng(0).choice(lengths, (_BATCHES, _BATCH))
    padded = np.mean(drawn < drawn.max(axis=1, keepdims=True))
    print(f"{'rows of a batch that end before its longest':<50} {padded:.2%}")
    prompts = np.array([len(r["prompt_token_ids"]) for r in rows])
    steps = np.array([len(r["completion_token_ids"]) for r in rows])
    once_each = np.sum(steps * prompts + steps * (steps - 1) // 2)
    print(f"{'tokens, a forward a prefix over one a trajectory':<50} "
          f"{once_each / np.sum(prompts + steps):.1f}")  # fmt: skip


def _differs(tokenizer: Any, row: dict[str, Any], step: dict[str, Any]) -> bool:
    """Whether the completion before a step, decoded and tokenized again, is of other tokens."""
    ids = row["completion_token_ids"][: step["position"]]
    return bool(tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) != ids)


if __name__ == "__main__":
    main()
