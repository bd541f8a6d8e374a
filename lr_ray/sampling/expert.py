"""The expert's side of sampling: greedy trajectories with their top-K log-probabilities."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lr_ray.config import Config
from lr_ray.engines.engine import Generate
from lr_ray.engines.guard import start_guarded
from lr_ray.errors import counted
from lr_ray.method.contrast import plausible_bound
from lr_ray.models.files import vocabulary_rows
from lr_ray.models.models import load_tokenizer, render_prompt
from lr_ray.problems import read_problems
from lr_ray.run.schemas import TRAJECTORY, lists
from lr_ray.run.store import Run

Step = tuple[NDArray[np.int32], NDArray[np.float32]]  # token ids and log-probabilities


@dataclass
class Trajectory:
    """A greedy solution; `counts[t]` tokens of step t in the flat arrays, most probable first."""

    prompt: list[int]
    completion: list[int]
    finish_reason: str
    counts: NDArray[np.int32]  # [T]
    token_ids: NDArray[np.int32]  # [sum of counts]
    logprobs: NDArray[np.float32]


class Solver(ABC):
    """What Ray Data actors that solve the run's problems share. Holds one engine of the expert."""

    schema: pa.Schema  # of the rows
    nothing: Any  # the result of a problem that has none

    def __init__(self, model: str, config: Config, context: int, run: Run, journal: Any) -> None:
        """`context`: tokens of prompt and completion there is room for."""
        self.sampling, self.run = config.sampling, run
        self.variables = config.models.chat_template_kwargs
        self.tokenizer = load_tokenizer(model)
        self.tokenizing = threading.Lock()  # a fast tokenizer raises when two threads use it
        self.vocabulary = vocabulary_rows(model)
        self.room = context - self.sampling.longest
        is_set = context == self.sampling.room
        self.more = "; a larger sampling.max_model_len has more" if is_set else ""
        self.engine, self.guard = start_guarded("expert", model, config, context, journal)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Column `index` to the columns of `schema`; unusable problems get an error."""
        rows = batch["index"].to_numpy()
        self.engine.rank(int(rows[0]))
        problems = read_problems(self.run, rows)
        prompts: list[list[int]] = []
        results: list[Any] = []
        for text in problems["problem"].to_pylist():
            with self.tokenizing:
                ids, reason = self._prompt(text)
            prompts.append(ids)
            results.append(reason)
        items = self.items(problems, prompts)
        todo = [i for i, result in enumerate(results) if result is None]
        solved = self.guard.run(
            f"expert {rows[0]}+{len(rows)}", [items[i] for i in todo], self.solve
        )
        for i, result in zip(todo, solved, strict=True):
            results[i] = result
        return self.table(rows, problems, results)

    def table(self, rows: NDArray[np.int64], problems: pa.Table, results: list[Any]) -> pa.Table:
        """Results, or in their place strings that say why there is none, as rows of `schema`."""
        solved = [self.nothing if isinstance(result, str) else result for result in results]
        errors = [result if isinstance(result, str) else None for result in results]
        columns = {"index": pa.array(rows), "error": pa.array(errors, pa.string())}
        columns |= self.columns(solved)
        named = (columns[n] if n in columns else problems[n] for n in self.schema.names)
        return pa.table(list(named), schema=self.schema)

    def items(self, problems: pa.Table, prompts: list[list[int]]) -> Sequence[Any]:
        """What `solve` takes of each problem."""
        return prompts

    @abstractmethod
    def solve(self, items: Sequence[Any]) -> list[Any]:
        """A result for each item, in their order."""

    @abstractmethod
    def columns(self, solved: list[Any]) -> dict[str, pa.Array]:
        """Results as columns by name."""

    def _prompt(self, problem: str) -> tuple[list[int], str | None]:
        """The problem's token ids, or none and why."""
        try:
            system_prompt = self.sampling.system_prompt
            ids = render_prompt(self.tokenizer, problem, system_prompt, self.variables)
        except Exception as error:  # a template may refuse one problem with anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            return [], f"the chat template refuses it: {reason}"
        return ids, self._unusable(ids)

    def _unusable(self, prompt: list[int]) -> str | None:
        if not prompt:
            return "the chat template makes nothing of it"
        if len(prompt) > self.room:
            room = f"at most {self.room} leave room to answer{self.more}"
            return f"prompt has {counted(len(prompt), 'token')}; {room}"
        if max(prompt) >= self.vocabulary:
            return f"prompt has token {max(prompt)}; the expert has {self.vocabulary}"
        return None


class ExpertSampler(Solver):
    """Rows of the run's problems in, trajectories (columns of `schemas.TRAJECTORY`) out."""

    schema = TRAJECTORY
    nothing = Trajectory(
        [], [], "error", np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32)
    )

    def __init__(self, model: str, config: Config, context: int, run: Run, journal: Any) -> None:
        super().__init__(model, config, context, run, journal)
        self.k = min(self.sampling.top_k, self.vocabulary)

    def columns(self, solved: list[Trajectory]) -> dict[str, pa.Array]:
        return {
            "prompt_token_ids": lists([t.prompt for t in solved], pa.int32()),
            "completion_token_ids": lists([t.completion for t in solved], pa.int32()),
            "finish_reason": pa.array([t.finish_reason for t in solved]),
            "counts": lists([t.counts for t in solved], pa.int32()),
            "topk_token_ids": lists([t.token_ids for t in solved], pa.int32()),
            "expert_logprobs": lists([t.logprobs for t in solved], pa.float32()),
        }

    def solve(self, prompts: Sequence[list[int]]) -> list[Trajectory]:
        """Decodes greedily, and gives each step at least its whole plausible set."""
        most = self.sampling.max_new_tokens
        requests = [Generate(prompt, most, top_k=self.k) for prompt in prompts]
        solved = []
        for prompt, [found] in zip(prompts, self.engine.generate(requests), strict=True):
            counts = np.full(len(found.top_ids_TK), self.k, np.int32)
            top = found.top_ids_TK.ravel(), found.top_logprobs_TK.ravel()
            solved.append(Trajectory(prompt, found.token_ids, found.finish_reason, counts, *top))
        if self.k < self.vocabulary:
            self._complete(solved)
        return solved

    def _complete(self, solved: list[Trajectory]) -> None:
        """Asks again, for as many tokens as can be plausible, where all K tokens are."""
        places, requests = [], []
        threshold = np.float32(np.log(self.sampling.plausibility))
        for place, trajectory in enumerate(solved):
            logprobs_TK = trajectory.logprobs.reshape(-1, self.k)
            top_T = logprobs_TK[:, 0]
            for step in np.flatnonzero(logprobs_TK[:, -1] >= top_T + threshold):
                bound = plausible_bound(top_T[step], self.sampling.plausibility)
                places.append((place, step))
                prefix = trajectory.prompt + trajectory.completion[:step]
                # Twice the bound: in bfloat16 a forward in another batch has another top.
                requests.append(Generate(prefix, 1, min(self.vocabulary, 2 * int(bound) + 1)))
        wider: list[dict[int, Step]] = [{} for _ in solved]
        outputs = self.engine.generate(requests, counted=False)
        for (place, step), [found] in zip(places, outputs, strict=True):
            ids, values = found.top_ids_TK[0], found.top_logprobs_TK[0]
            size = max(self.k, int((values >= values[0] + threshold).sum()))
            if size == len(ids) < self.vocabulary:
                raise ValueError(f"plausible set of step {step} reaches beyond {size} tokens")
            wider[place][step] = ids[:size], values[:size]
        for trajectory, steps in zip(solved, wider, strict=True):
            if steps:
                _replace(trajectory, self.k, steps)


def _replace(trajectory: Trajectory, k: int, wider: dict[int, Step]) -> None:
    """Puts longer steps in the places of the K tokens that were there."""
    ids = list(trajectory.token_ids.reshape(-1, k))
    values = list(trajectory.logprobs.reshape(-1, k))
    for step, (step_ids, step_values) in wider.items():
        ids[step], values[step] = step_ids, step_values
        trajectory.counts[step] = len(step_ids)
    trajectory.token_ids, trajectory.logprobs = np.concatenate(ids), np.concatenate(values)
