"""What the sampling actors do around their engines: checks, arrays, longer steps."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from lr_ray.engines.logprobs import StepLogprobs
from lr_ray.sampling.amateur import AmateurScorer
from lr_ray.sampling.expert import ExpertSampler, Trajectory, _replace


def test_prompts_that_the_expert_cannot_read_are_named():
    expert = SimpleNamespace(room=3, vocabulary=10, more="")
    assert ExpertSampler._unusable(expert, [1, 2, 9]) is None
    assert "has 4 tokens; at most 3" in ExpertSampler._unusable(expert, [1, 2, 3, 4])
    assert ExpertSampler._unusable(expert, []) == "the chat template makes nothing of it"
    assert ExpertSampler._unusable(expert, [1, 10]) == "prompt has token 10; the expert has 10"


def test_trajectories_that_the_amateur_cannot_read_are_named():
    amateur = SimpleNamespace(vocabulary=10, context=4)
    assert AmateurScorer._unusable(amateur, pa.scalar([1, 2]), pa.scalar([9])) is None
    reason = AmateurScorer._unusable(amateur, pa.scalar([1, 2]), pa.scalar([3, 10]))
    assert reason == "trajectory has token 10; the amateur has 10"
    reason = AmateurScorer._unusable(amateur, pa.scalar([1, 2]), pa.scalar([3, 4, 5]))
    assert reason == "trajectory has 5 tokens; there is room for 4"


def test_logprobs_drop_the_sampled_token_and_padding():
    steps = StepLogprobs(max_steps=5, k=2)
    steps.append(np.array([[7, 7, 8, 0]]), np.array([[-1.0, -1, -2, -9]]))
    steps.append(np.array([[4, 5, 4]]), np.array([[-2.0, -1, -2]]))
    assert len(steps) == 2
    assert steps.token_ids.tolist() == [[7, 8], [5, 4]]
    assert steps.logprobs.tolist() == [[-1, -2], [-1, -2]]
    assert (steps.token_ids.dtype, steps.logprobs.dtype) == (np.int32, np.float32)


def test_a_completed_step_takes_the_place_of_its_k_tokens():
    ids, values = np.arange(6, dtype=np.int32), -np.arange(6, dtype=np.float32)
    trajectory = Trajectory([1], [0, 2, 4], "stop", np.full(3, 2, np.int32), ids, values)
    wider = np.array([2, 3, 9], np.int32), np.array([-1, -2, -3], np.float32)
    _replace(trajectory, 2, {1: wider})
    assert trajectory.counts.tolist() == [2, 3, 2]
    assert trajectory.token_ids.tolist() == [0, 1, 2, 3, 9, 4, 5]
    assert trajectory.logprobs.tolist() == [0, -1, -1, -2, -3, -4, -5]
