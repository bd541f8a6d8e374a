"""What the models read: one whole prompt of sampling and of each task, what ends an answer, limits."""

from typing import Any

from lr_ray.config import Evaluation, Sampling
from lr_ray.evaluation.client import request
from lr_ray.evaluation.examples import examples
from lr_ray.evaluation.paper import paper_request
from lr_ray.evaluation.tasks import parts_of, task_name
from lr_ray.problems.benchmarks import grader_of
from lr_ray.report.page.source import Source
from lr_ray.report.page.words import Words

TITLE = "Asked"
# Of the conditions, and of what is sampled: how a reader says it.
SAID = {
    "system_prompt": "system prompt",
    "prefill": "prefill: how each answer begins",
    "max_new_tokens": "most tokens of an answer",
    "stop": "texts that end an answer",
    "stop_token_ids": "tokens that end an answer",
    "expert": "how the expert is asked",
    "other_models": "how other models are asked",
    "completion": "the expert's prompt",
    "completion_stop": "text that ends the expert's answer",
}
_PROTOCOLS = {"conditions": "Asked alike", "conditions_paper": "Asked as the paper asked"}


def section(source: Source) -> dict[str, Any] | None:
    evaluation = source.summary.get("evaluation", {})
    conditions = [
        {
            "title": title,
            "rows": [(SAID.get(n, n), _text(n, v, source.words)) for n, v in found.items()],
        }
        for part, title in _PROTOCOLS.items()
        if (found := evaluation.get(part))
    ]
    prompts = [*_sampled(source), *_tasks(source)]
    if not prompts and not conditions:
        return None
    return {
        "conditions": conditions,
        "prompts": prompts,
        "sampling": _limits(source),
        "left_out": evaluation.get("left_out", {}),
        "repeated": evaluation.get("repeated_rows", {}),
        "template": source.words is not None,
    }


def _text(name: str, value: Any, words: Words | None) -> str:
    if value is None or value == []:
        return "none"
    if name == "stop_token_ids":
        return ", ".join(words.alone(i) if words else f"token {i}" for i in value)
    return ", ".join(map(repr, value)) if isinstance(value, list) else str(value)


def _limits(source: Source) -> Sampling | None:
    """The settings of sampling, where it was done by them."""
    if "sampling" not in source.summary or source.imported or "sampling" not in source.config:
        return None
    return Sampling.model_validate(source.config["sampling"])


def _sampled(source: Source) -> list[dict[str, str]]:
    if source.scored is None or source.words is None:
        return []
    ids = source.scored.scores["prompt_token_ids"][0].as_py()
    return [{"title": "while sampling, both models", "text": source.words.text(ids)}]


def _tasks(source: Source) -> list[dict[str, str]]:
    """The first problem of each task, as it was asked.

    A comparison's variant with a prefill has no conditions that all models were asked under: its expert was
    asked with the comparison's.
    """
    if "evaluation" not in source.config:
        return []
    evaluation, found = Evaluation.model_validate(source.config["evaluation"]), []
    asked = source.summary.get("evaluation", {})
    for name, table in source.tables.items():
        part = source.summary["accuracy"][name]
        benchmark, shots, _ = parts_of(name, evaluation)
        shown = examples(part.get("kind") or _kind(benchmark, evaluation), shots)
        problem, title = table["problem"][0].as_py(), name
        if part.get("protocol") == "paper":
            if asked["conditions_paper"].get("completion"):
                raw = paper_request(problem, evaluation, True, shown)
                found.append({"title": f"{name}, the expert", "text": raw["prompt"]})
            body = paper_request(problem, evaluation, False, shown)
        else:
            if evaluation.prefill is not None and "conditions" not in asked:
                plain = evaluation.model_copy(update={"prefill": asked.get("expert_prefill")})
                turns = request(problem, plain, (), shown)["messages"]
                found.append({"title": f"{name}, the expert", "text": _rendered(source, turns)})
                title = f"{name}, the variant's model"
            body = request(problem, evaluation, (), shown)
        found.append({"title": title, "text": _rendered(source, body["messages"])})
    return found


def _kind(name: str, evaluation: Evaluation) -> str:
    """The likely grader of a task of an older run, whose summary names none; rows of a file may name one."""
    if name == "demo":
        return name
    benchmark = next((b for b in evaluation.benchmarks if task_name(b, 0) == name), name)
    return grader_of(benchmark, evaluation.grader)


def _rendered(source: Source, turns: list[dict[str, str]]) -> str:
    """By the expert's chat template; without it, turn by turn."""
    if source.words is None:
        return "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in turns)
    return source.words.chat(
        turns, source.config.get("models", {}).get("chat_template_kwargs") or {}
    )
