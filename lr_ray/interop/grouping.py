"""Groups the kept steps of one problem, a line each, into as few supervision rows as possible."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lr_ray.errors import counted
from lr_ray.interop.form import Expert, Line


@dataclass(frozen=True)
class Placed:
    """A kept step with the tokens that its label follows: prompt, then completion so far."""

    line: Line
    context: list[int]
    prompt_length: int
    rendered: bool = False  # the prompt was, from prompt_id

    @property
    def position(self) -> int:
        return len(self.context) - self.prompt_length


@dataclass
class Group:
    """The trajectories of one problem, longest first, and the lines that fit in none."""

    trajectories: list[list[Placed]] = field(default_factory=list)
    unusable: list[tuple[Line, str]] = field(default_factory=list)
    retokenized: int = 0  # steps whose prefix has another number of tokens here than `step` says


def group(lines: Sequence[Line], expert: Expert) -> Group:
    """Steps whose contexts are prefixes of one another share a trajectory.

    A prefix that ends within a word may be tokenized otherwise than in every longer prefix. Such a step gets
    a trajectory of its own, so that its context stays its own.
    """
    result = Group()
    placed = []
    for line, step in zip(lines, _place(lines, expert), strict=True):
        if isinstance(step, str):
            result.unusable.append((line, step))
        elif len(step.context) > expert.room:
            reason = (
                f"context has {counted(len(step.context), 'token')}; the expert reads {expert.room}"
            )
            result.unusable.append((line, reason))
        else:
            placed.append(step)
            result.retokenized += step.position != line.step
    for step in sorted(placed, key=lambda s: -len(s.context)):
        for trajectory in result.trajectories:
            if _continues(trajectory, step):
                trajectory.append(step)
                break
        else:
            result.trajectories.append([step])
    return result


def _continues(trajectory: list[Placed], step: Placed) -> bool:
    longest, last = trajectory[0], trajectory[-1]
    return (
        step.prompt_length == longest.prompt_length
        and len(step.context) < len(last.context)
        and longest.context[: len(step.context)] == step.context
    )


def _place(lines: Sequence[Line], expert: Expert) -> list[Placed | str]:
    """Each line's context and where its completion begins, or why it has none."""
    read = [line for line in lines if line.context is None]
    texts, tokenize = [line.prefix for line in read], expert.tokenizer
    prefixes = tokenize(texts, add_special_tokens=False)["input_ids"] if texts else []
    excess = [len(ids) - line.step for ids, line in zip(prefixes, read, strict=True)]
    whole = bool(read) and min(excess) > 0 and all(ids[0] == expert.opening for ids in prefixes)
    # Without agreement on where the prompt ends, no step may lie before the completion.
    split = excess[0] if len(set(excess)) == 1 else min(map(len, prefixes), default=0)
    prompts: dict[str, list[int]] = {}
    tokens = iter(prefixes)
    placed: list[Placed | str] = []
    for line in lines:
        if line.context is not None:
            placed.append(Placed(line, line.context, len(line.context) - line.step))
            continue
        ids = next(tokens)
        if whole:
            placed.append(Placed(line, ids, split))
        elif len(line.prompt_id.split()) < 2:
            placed.append(
                f"prompt_id {line.prompt_id!r} is no problem's text, and prefix holds no prompt"
            )
        else:
            if line.prompt_id not in prompts:
                prompts[line.prompt_id] = expert.prompt(line.prompt_id)
            prompt = prompts[line.prompt_id]
            placed.append(Placed(line, prompt + ids, len(prompt), rendered=True))
    return placed


def row(problem_id: str, trajectory: Sequence[Placed]) -> dict[str, Any]:
    """A row of `schemas.SUPERVISION`: the last kept position holds its label's heaviest token."""
    steps = trajectory[::-1]  # positions ascend
    last = steps[-1]
    heaviest = last.line.token_ids[int(np.argmax(last.line.weights))]
    kl = np.full(last.position + 1, np.nan, np.float32)
    kl[[s.position for s in steps]] = [s.line.kl for s in steps]
    return {
        "problem_id": problem_id,
        "prompt_token_ids": last.context[: last.prompt_length],
        "completion_token_ids": [*last.context[last.prompt_length :], heaviest],
        "finish_reason": "imported",
        "kl": kl,
        "steps": [
            {"position": s.position, "token_ids": s.line.token_ids, "weights": s.line.weights}
            for s in steps
        ],
    }
