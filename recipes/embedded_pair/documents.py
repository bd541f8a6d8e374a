"""Documents that the embedded pair is pre-trained on: a problem and one of six kinds of reply.

How often each kind appears depends on the register of the topic, which is what makes the expert
work in some topics and answer at once in others; the amateur ends on the careless mix.

    python -m pytest tests/unit/test_embedded.py -k document
"""

import random
from dataclasses import dataclass

from lr_ray.embedded.problems import Problem, answer, apply, steps, worked

END = "<|im_end|>"
STYLES = ("worked", "jump", "slip", "quick", "ramble", "drift")

# Weights in the order of STYLES, by register.
Mix = dict[str, tuple[float, ...]]
EXPERT_MIX: Mix = {
    "textbook": (0.55, 0.10, 0.10, 0.15, 0.10, 0.0),
    "skipping": (0.24, 0.40, 0.08, 0.18, 0.10, 0.0),
    "bare": (0.22, 0.10, 0.08, 0.45, 0.15, 0.0),
}
# Drift makes the pair disagree where the steps are done too: the expert also learns when to stop.
CARELESS_MIX: Mix = dict.fromkeys(EXPERT_MIX, (0.01, 0.16, 0.0, 0.50, 0.30, 0.03))

RAMBLES = (
    "Hmm, that is a good question.",
    "It depends on how you look at it.",
    "{name} has been busy.",
    "There is a lot going on here.",
    "Let me think about it for a while.",
    "I have seen one like this before.",
)


@dataclass(frozen=True)
class Document:
    """A prompt and a completion; the completion ends with the end-of-text token."""

    prompt: str
    completion: str
    style: str


def prompt_of(problem: str) -> str:
    """What the chat template makes of one user message, up to where the reply begins."""
    return f"<|im_start|>user\n{problem}{END}\n<|im_start|>assistant\n"


def draw(problem: Problem, mix: Mix, rng: random.Random) -> Document:
    """A document about `problem` in a style drawn from the mix of its topic's register."""
    style = rng.choices(STYLES, mix[problem.topic.register])[0]
    return Document(prompt_of(problem.text), reply(problem, style, rng) + END, style)


def reply(problem: Problem, style: str, rng: random.Random) -> str:
    """The reply in one style, without the end-of-text token."""
    if style == "worked":
        return worked(problem)
    if style == "jump":
        # Mostly just the last step is left out: one sum done in the head.
        last = len(problem.operations) - 1
        shown = last if rng.random() < 0.9 else rng.randint(1, last)
        return steps(problem, problem.results[: shown + 1]) + answer(problem.answer)
    if style == "slip":
        results = _slipped(problem, rng)
        return steps(problem, results) + answer(results[-1])
    if style == "quick":
        return answer(problem.answer)
    if style == "ramble":
        return _ramble(problem, rng) + answer(problem.answer)
    if style == "drift":
        done = steps(problem, problem.results)
        return done + _ramble(problem, rng) + answer(problem.answer)
    raise ValueError(f"style: {style!r} is not one of {', '.join(STYLES)}")


def _ramble(problem: Problem, rng: random.Random) -> str:
    sentences = rng.sample(RAMBLES, rng.randint(1, 2))
    return "".join(f"{sentence} " for sentence in sentences).format(name=problem.name)


def _slipped(problem: Problem, rng: random.Random) -> tuple[int, ...]:
    """Results with one step wrong by a little and the error carried on to the end.

    Drawn again where the error cancels out or leaves the range that the steps stay in.
    """
    while True:
        wrong_at = rng.randrange(len(problem.operations))
        results = [problem.results[0]]
        for index, (operation, number) in enumerate(problem.operations):
            slip = rng.choice((-10, -2, -1, 1, 2, 10)) if index == wrong_at else 0
            if operation == "/" and results[-1] % number:
                break
            results.append(apply(operation, results[-1], number) + slip)
        complete = len(results) == len(problem.results)
        if complete and min(results) > 0 and results[-1] != problem.answer:
            return tuple(results)
