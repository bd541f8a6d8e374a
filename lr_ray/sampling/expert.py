"""The expert's side of sampling: greedy trajectories with their top-K log-probabilities."""

from typing import Any

import numpy as np
import pyarrow as pa

from lr_ray.config import Sampling
from lr_ray.models import (
    load_tokenizer,
    render_prompt,
    stop_token_ids,
    vocabulary_rows,
)
from lr_ray.sampling.engine import start_engine
from lr_ray.sampling.rows import TRAJECTORY, lists


class ExpertSampler:
    """Ray Data actor: problems in, trajectories out. Holds one vLLM engine."""

    def __init__(self, model: str, sampling: Sampling, context: int) -> None:
        """`context`: tokens of prompt and completion that both models have room for."""
        from vllm import SamplingParams

        self.sampling = sampling
        self.tokenizer = load_tokenizer(model)
        self.k = min(sampling.top_k, vocabulary_rows(model))
        self.room = context - sampling.max_new_tokens
        self.params = SamplingParams(
            temperature=0,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=stop_token_ids(model),
            logprobs=self.k,
            flat_logprobs=True,
            detokenize=False,
        )
        self.engine = start_engine(model, sampling.expert, context, max_logprobs=self.k)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`problem_id, problem` to the columns of `rows.TRAJECTORY`; unusable problems get an error."""
        prompts, errors = [], []
        for problem in batch["problem"].to_pylist():
            ids = render_prompt(self.tokenizer, problem, self.sampling.system_prompt)
            error = None
            if len(ids) > self.room:
                error = f"prompt has {len(ids)} tokens; at most {self.room} leave room to answer"
            prompts.append([] if error else ids)
            errors.append(error)
        requests = [{"prompt_token_ids": ids} for ids in prompts if ids]
        generate = self.engine.generate
        outputs = iter(generate(requests, self.params, use_tqdm=False) if requests else ())
        results = [self._read(next(outputs)) if ids else _NOTHING for ids in prompts]
        completions, reasons, ids_TK, logprobs_TK = zip(*results, strict=True)
        return pa.table(
            [
                batch["problem_id"],
                lists(prompts, pa.int32()),
                lists(completions, pa.int32()),
                pa.array(reasons, pa.string()),
                pa.array([self.k] * len(prompts), pa.int32()),
                lists([a.ravel() for a in ids_TK], pa.int32()),
                lists([a.ravel() for a in logprobs_TK], pa.float32()),
                pa.array(errors, pa.string()),
            ],
            schema=TRAJECTORY,
        )

    def _read(self, output: Any) -> tuple[list[int], str, np.ndarray, np.ndarray]:
        completion = output.outputs[0]
        steps = len(completion.token_ids)
        # vLLM puts the sampled token before the K most probable ones of each step.
        ids = np.asarray(completion.logprobs.token_ids, np.int32).reshape(steps, self.k + 1)
        logprobs = np.asarray(completion.logprobs.logprobs, np.float32).reshape(ids.shape)
        return list(completion.token_ids), completion.finish_reason, ids[:, 1:], logprobs[:, 1:]


_NOTHING: Any = ([], "error", np.empty(0, np.int32), np.empty(0, np.float32))
