"""The sampling actors called in turn in one process, without Ray: what the stage is compared with."""

import time
from typing import Any

import numpy as np
import pyarrow as pa

from lr_ray.config import Config
from lr_ray.labelling.label import Labelled, supervise
from lr_ray.labelling.scores import score
from lr_ray.models.models import engine_room, render_prompt, resolve_model
from lr_ray.problems import read_problems
from lr_ray.run.schemas import lists
from lr_ray.run.store import Run
from lr_ray.sampling.amateur import AmateurScorer
from lr_ray.sampling.expert import ExpertSampler

PARTS = ("expert", "amateur", "label")


def model_paths(config: Config) -> tuple[str, str]:
    names = config.models
    return resolve_model(names.expert, "expert"), resolve_model(names.amateur, "amateur")


class Told:
    """In the place of the stage's journal: what the engine last said of itself."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}
        self.tell = self

    def remote(self, engine: str, said: dict[str, Any]) -> None:
        self.said |= said


class InProcess:
    """Both engines of a config, for the staged problems of a run."""

    def __init__(self, config: Config, run: Run) -> None:
        expert, amateur = model_paths(config)
        room = engine_room(expert, amateur, config.sampling)
        self.run, self.sampling = run, config.sampling
        self.sampler = ExpertSampler(expert, config, room, run, None)
        self.scorer = AmateurScorer(amateur, config, room, None)

    def sample(self, index: np.ndarray) -> tuple[Labelled, dict[str, float]]:
        """Rows of the problems at `index` and the seconds of each part."""
        marks = [time.monotonic()]
        problems = read_problems(self.run, index)
        prompts = [
            render_prompt(self.sampler.tokenizer, text, self.sampling.system_prompt)
            for text in problems["problem"].to_pylist()
        ]
        solved = self.sampler.solve(prompts)
        marks.append(time.monotonic())
        table = self.sampler.table(index, problems, solved).combine_chunks()
        scores = self.scorer.score(table, range(len(index)))
        marks.append(time.monotonic())
        table = table.append_column("amateur_logprobs", lists(scores, pa.float32()))
        scored = score(table, self.sampling.plausibility, self.sampler.k)
        labelled = supervise(scored.scores, self.sampling, scored.bad, scored.bad_index)
        marks.append(time.monotonic())
        return labelled, dict(zip(PARTS, np.diff(marks).tolist(), strict=True))
