"""What `auto` makes of the paper's experts on GPUs of several kinds, as a Markdown table.

    python benchmarks/placement.py

Nothing is started or downloaded: sizes come from the models' config.json. GB are 1e9 bytes, of each GPU.
"""

import itertools

from lr_ray.config import STAGES, Config, read_tree, resolve
from lr_ray.errors import UserError
from lr_ray.placement import arrange, find_models, needs
from lr_ray.placement.cards import Cards, pretended
from lr_ray.placement.needs import Processes
from lr_ray.placement.sizes import Models

EXPERTS = ("qwen2.5-math-1.5b", "qwen2.5-math-7b", "qwen2.5-math-7b-instruct")
CARDS = [pretended(n, 1e9 * size) for n, size in ((1, 24), (1, 48), (1, 80), (2, 80), (8, 80))]
HEAD = (
    "expert",
    "GPUs",
    "stage",
    "how",
    "processes",
    "GPUs each",
    "weights",
    "cache",
    "takes",
    "has",
)


def rows(preset: str, cards: Cards) -> list[tuple[str, ...]]:
    config = resolve(read_tree(preset))
    models, _ = find_models(config)
    found: list[tuple[str, ...]] = []
    for stage in STAGES:
        try:
            arranged = arrange(config, models, cards, [stage])
        except UserError as error:
            found.append((preset, str(cards), stage, str(error)))
            continue
        found += [
            (preset, str(cards), stage, *row) for row in of_stage(arranged, models, stage, cards)
        ]
    return found


def of_stage(config: Config, models: Models, stage: str, cards: Cards) -> list[tuple[str, ...]]:
    processes = needs.processes(config, models, stage)
    how = "together" if needs.together(config, stage) else "apart"
    if stage == "training":
        training = config.training
        how = f"{training.micro_batch_tokens} tokens a forward"
        how += ", checkpointed" if training.gradient_checkpointing else ""
    return [(how, *of_process(p, cards)) for p in processes]


def of_process(p: Processes, cards: Cards) -> tuple[str, ...]:
    cache = 1e9 * (p.place.cache_gb or 0)
    amounts = (p.weights or 0, cache, p.fixed + cache, p.room(cards.memory))
    return (f"{p.most} {p.role}", f"{p.place.gpus:g}", *(f"{a / 1e9:.1f}" for a in amounts))


def main() -> None:
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    for preset, cards in itertools.product(EXPERTS, CARDS):
        for row in rows(preset, cards):
            print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
