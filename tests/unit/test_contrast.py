"""The arithmetic against direct float64 formulas and against the oracle's."""

import numpy as np
import pytest
import torch

from lr_ray.method import oracle, rules
from lr_ray.method.contrast import (
    Exchange,
    Labels,
    diverge,
    plausible,
    plausible_bound,
    problem_seed,
    soft_labels,
    unlabelled,
)

V, N = 50, 200
ALL = np.ones(N, bool)


def random_logprobs(seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 3, (N, V))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def top_k(expert: np.ndarray, amateur: np.ndarray, counts) -> Exchange:
    """The most probable tokens of each step: `counts` of them, one number or one a step."""
    counts = np.broadcast_to(np.asarray(counts, np.int32), N)
    ids = [np.argsort(-p, kind="stable")[:n] for p, n in zip(expert, counts, strict=True)]
    return Exchange(
        np.concatenate(ids).astype(np.int32),
        np.concatenate([p[i] for p, i in zip(expert, ids, strict=True)]),
        np.concatenate([q[i] for q, i in zip(amateur, ids, strict=True)]),
        counts,
    )


def test_whole_vocabulary_kl_is_exact():
    p, q = random_logprobs(0).astype(np.float64), random_logprobs(1).astype(np.float64)
    expected = (np.exp(p) * (p - q)).sum(1)
    got = diverge(top_k(p.astype(np.float32), q.astype(np.float32), V))
    assert got.kl.dtype == np.float32
    np.testing.assert_allclose(got.kl, expected, atol=1e-5, rtol=1e-5)
    assert max(got.expert_residual.max(), got.amateur_residual.max()) < 1e-5


@pytest.mark.parametrize("counts", [2, 5, 20, np.arange(N) % 9 + 1])
def test_truncated_kl_lumps_the_tail_and_is_a_lower_bound(counts):
    p, q = random_logprobs(0), random_logprobs(1)
    got = diverge(top_k(p, q, counts))
    for i in range(N):
        ids = np.argsort(-p[i], kind="stable")[: np.broadcast_to(counts, N)[i]]
        pk, qk = p[i][ids].astype(float), q[i][ids].astype(float)
        tail_p, tail_q = 1 - np.exp(pk).sum(), 1 - np.exp(qk).sum()
        expected = (np.exp(pk) * (pk - qk)).sum() + tail_p * np.log(tail_p / tail_q)
        assert got.kl[i] == pytest.approx(expected, abs=1e-4)
        assert got.expert_residual[i] == pytest.approx(tail_p, abs=1e-6)
        assert got.amateur_residual[i] == pytest.approx(tail_q, abs=1e-6)
    full = (np.exp(p) * (p - q)).sum(1)
    assert (got.kl <= full + 1e-5).all()
    assert (got.kl < full - 1e-3).any()


def test_ids_unknown_to_the_amateur_count_as_tail():
    p, q = random_logprobs(0), random_logprobs(1)
    x = top_k(p, q, 6)
    fourth = np.arange(6 * N) % 6 == 3
    unknown = Exchange(x.token_ids, x.expert, np.where(fourth, -np.inf, x.amateur), x.counts)
    without = Exchange(x.token_ids[~fourth], x.expert[~fourth], x.amateur[~fourth], x.counts - 1)
    np.testing.assert_allclose(diverge(unknown).kl, diverge(without).kl, atol=1e-6)
    labels = soft_labels(unknown, ALL, 1e-9)
    assert len(labels.token_ids) == N * 5
    assert np.isfinite(labels.weights).all()


def test_equal_models_have_no_divergence():
    p = random_logprobs(0)
    assert (diverge(top_k(p, p, 7)).kl == 0).all()


def test_soft_labels_match_the_definition():
    p, q = random_logprobs(2), random_logprobs(3)
    x = top_k(p, q, V)
    keep = diverge(x).kl > 2.0
    assert 0 < keep.sum() < N
    labels = soft_labels(x, keep, 0.2)
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
    x = top_k(p, q, V)
    kl = diverge(x).kl
    labels = soft_labels(x, ALL, 0.2)
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
    x = top_k(random_logprobs(0), random_logprobs(1), 4)
    for exchange, keep in ((x, ~ALL), (Exchange(*[x.token_ids[:0]] * 4), ALL[:0])):
        labels = soft_labels(exchange, keep, 0.2)
        assert labels.offsets.tolist() == [0]
        assert len(labels.token_ids) == len(labels.weights) == 0
    assert len(diverge(exchange).kl) == 0


@pytest.mark.parametrize("plausibility", [1.0, 0.2, 0.01])
def test_no_plausible_set_is_larger_than_its_bound(plausibility):
    flat = np.full((N, V), -np.log(V), np.float32)
    for p in (random_logprobs(0), random_logprobs(7) / 10, flat):
        p = p - np.log(np.exp(p).sum(1, keepdims=True))
        sizes = plausible(top_k(p, p, V), plausibility).reshape(N, V).sum(1)
        bounds = plausible_bound(p.max(1), plausibility)
        assert (sizes <= bounds).all()
    assert (sizes == V).all()


def test_steps_whose_plausible_tokens_the_amateur_lacks_are_seen():
    p = np.log(np.array([0.9, 0.05, 0.5, 0.4], np.float32))
    q = np.array([-np.inf, -1, -np.inf, -1], np.float32)
    x = Exchange(np.array([1, 2, 1, 2], np.int32), p, q, np.array([2, 2], np.int32))
    assert unlabelled(x, 0.2).tolist() == [True, False]


def steps_of(x: Exchange, completion: np.ndarray, plausibility: float) -> rules.Steps:
    kl, lengths = np.zeros(len(completion), np.float32), np.array([len(completion)])
    return rules.Steps(kl, x, completion, lengths, ["p"], 0.4, plausibility, 0)


def expert_labels(x: Exchange, keep: np.ndarray, plausibility: float) -> Labels:
    return rules.expert(steps_of(x, np.zeros(N, np.int32), plausibility), keep)


def test_expert_labels_are_p_over_the_plausible_set():
    p, q = random_logprobs(2), random_logprobs(3)
    q[:, ::2] = -np.inf  # what the amateur lacks does not matter
    x = top_k(p, q, V)
    keep = np.arange(N) % 3 == 0
    labels = expert_labels(x, keep, 0.2)
    assert labels.steps.tolist() == np.flatnonzero(keep).tolist()
    for i, step in enumerate(labels.steps):
        probability = np.exp(p[step].astype(np.float64))
        expected = np.where(probability >= 0.2 * probability.max(), probability, 0)
        got = np.zeros(V)
        span = slice(labels.offsets[i], labels.offsets[i + 1])
        got[labels.token_ids[span]] = labels.weights[span]
        np.testing.assert_allclose(got, expected / expected.sum(), atol=1e-6)


def test_greedy_labels_are_the_completions_tokens():
    x = top_k(random_logprobs(2), random_logprobs(3), 1)
    steps = steps_of(x, np.array([5, 6, 7], np.int32), 0.2)
    labels = rules.greedy(steps, np.array([True, False, True]))
    assert labels.steps.tolist() == [0, 2]
    assert labels.offsets.tolist() == [0, 1, 2]
    assert labels.token_ids.tolist() == [5, 7]
    assert labels.weights.tolist() == [1, 1]


def test_labels_need_only_the_plausible_tokens_of_an_exchange():
    x = top_k(random_logprobs(2), random_logprobs(3), V)
    member = plausible(x, 0.1)
    counts = np.add.reduceat(member, x.starts).astype(np.int32)
    less = Exchange(x.token_ids[member], x.expert[member], x.amateur[member], counts)
    for make in (soft_labels, expert_labels):
        for plausibility in (0.1, 0.2, 1.0):
            ours, theirs = make(less, ALL, plausibility), make(x, ALL, plausibility)
            for name in ("steps", "offsets", "token_ids", "weights"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_seeds_of_problems_differ_by_problem_and_seed():
    seeds = {problem_seed(seed, f"p{i}") for seed in range(20) for i in range(50)}
    assert len(seeds) == 1000
    assert 0 <= min(seeds) < max(seeds) < 2**62
