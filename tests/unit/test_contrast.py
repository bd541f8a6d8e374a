"""The arithmetic against direct float64 formulas and against the oracle's."""

import numpy as np
import pytest
import torch

from lr_ray import oracle
from lr_ray.contrast import overflows, plausible, soft_labels, step_kl

V, N = 50, 200


def random_logprobs(seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 3, (N, V))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def top_k(expert: np.ndarray, amateur: np.ndarray, k: int):
    ids = np.argsort(-expert, axis=1)[:, :k].astype(np.int32)
    return ids, np.take_along_axis(expert, ids, 1), np.take_along_axis(amateur, ids, 1)


def test_whole_vocabulary_kl_is_exact():
    p, q = random_logprobs(0).astype(np.float64), random_logprobs(1).astype(np.float64)
    expected = (np.exp(p) * (p - q)).sum(1)
    got = step_kl(p.astype(np.float32), q.astype(np.float32))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", [2, 5, 20])
def test_truncated_kl_lumps_the_tail_and_is_a_lower_bound(k):
    p, q = random_logprobs(0), random_logprobs(1)
    _, pk, qk = top_k(p, q, k)
    tail_p, tail_q = 1 - np.exp(pk).sum(1), 1 - np.exp(qk).sum(1)
    expected = (np.exp(pk) * (pk - qk)).sum(1) + tail_p * np.log(tail_p / tail_q)
    got = step_kl(pk, qk)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    full = (np.exp(p) * (p - q)).sum(1)
    assert (got <= full + 1e-5).all()
    assert (got < full - 1e-3).any()


def test_ids_unknown_to_the_amateur_count_as_tail():
    p, q = random_logprobs(0), random_logprobs(1)
    ids, pk, qk = top_k(p, q, 6)
    unknown = qk.copy()
    unknown[:, 3] = -np.inf
    without = [i for i in range(6) if i != 3]
    np.testing.assert_allclose(step_kl(pk, unknown), step_kl(pk[:, without], qk[:, without]))
    labels = soft_labels(ids, pk, unknown, np.ones(N, bool), 1e-9)
    assert len(labels.token_ids) == N * 5
    assert np.isfinite(labels.weights).all()


def test_equal_models_have_no_divergence():
    p = random_logprobs(0)
    assert (step_kl(p, p) == 0).all()


def test_soft_labels_match_the_definition():
    p, q = random_logprobs(2), random_logprobs(3)
    ids, pk, qk = top_k(p, q, V)
    keep = step_kl(pk, qk) > 2.0
    assert 0 < keep.sum() < N
    labels = soft_labels(ids, pk, qk, keep, 0.2)
    assert labels.steps.tolist() == np.flatnonzero(keep).tolist()
    for i, step in enumerate(labels.steps):
        probability = np.exp(p[step].astype(np.float64))
        ratio = np.where(probability >= 0.2 * probability.max(), probability / np.exp(q[step]), 0)
        got = np.zeros(V)
        span = slice(labels.offsets[i], labels.offsets[i + 1])
        got[labels.token_ids[span]] = labels.weights[span]
        np.testing.assert_allclose(got, ratio / ratio.sum(), atol=1e-5)
        assert labels.weights[span].sum() == pytest.approx(1, abs=1e-6)


def test_agrees_with_the_oracle():
    p, q = random_logprobs(4), random_logprobs(5)
    ids, pk, qk = top_k(p, q, V)
    kl = step_kl(pk, qk)
    labels = soft_labels(ids, pk, qk, np.ones(N, bool), 0.2)
    for i in range(N):
        assert kl[i] == pytest.approx(
            oracle.step_kl(torch.tensor(p[i]), torch.tensor(q[i])), abs=1e-4
        )
        theirs = dict(
            zip(*oracle.soft_label(torch.tensor(p[i]), torch.tensor(q[i]), 0.2), strict=True)
        )
        span = slice(labels.offsets[i], labels.offsets[i + 1])
        ours = dict(zip(labels.token_ids[span].tolist(), labels.weights[span], strict=True))
        assert ours == pytest.approx({int(k): float(v) for k, v in theirs.items()}, abs=1e-5)


def test_nothing_kept_gives_empty_labels():
    p, q = random_logprobs(0), random_logprobs(1)
    ids, pk, qk = top_k(p, q, 4)
    labels = soft_labels(ids, pk, qk, np.zeros(N, bool), 0.2)
    assert labels.offsets.tolist() == [0]
    assert len(labels.token_ids) == len(labels.weights) == 0


def test_overflow_is_seen_only_where_the_last_token_is_plausible():
    flat = np.log(np.full((1, 4), 0.25, np.float32))
    peaked = np.log(np.array([[0.9, 0.05, 0.03, 0.01]], np.float32))
    assert overflows(np.concatenate([flat, peaked]), 0.2).tolist() == [True, False]
    assert plausible(peaked, 0.05).sum() == 2
