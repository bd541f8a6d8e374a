import itertools

import numpy as np
import pytest

from lr_ray.evaluation.statistics import (
    accuracy_interval,
    macro_difference,
    mcnemar_p,
    paired_difference,
    pass_at_k,
    pooled_difference,
)


def index_bootstrap(expert, improved, seed, resamples):
    """The textbook form: draws problem indices, [resamples, N]."""
    difference_N = improved.astype(float) - expert.astype(float)
    indices_RN = np.random.default_rng(seed).integers(
        len(difference_N), size=(resamples, len(difference_N))
    )
    return np.percentile(difference_N[indices_RN].mean(axis=1), [2.5, 97.5])


@pytest.mark.parametrize(("problems", "base", "gain"), [(50, 0.5, 0.1), (400, 0.5, 0.4)])
def test_interval_is_that_of_the_index_bootstrap(problems, base, gain):
    rng = np.random.default_rng(7)
    expert = rng.random(problems) < base
    improved = np.where(rng.random(problems) < gain, True, expert)
    result = paired_difference(expert, improved, seed=1, resamples=20_000)
    low, high = index_bootstrap(expert, improved, seed=2, resamples=20_000)
    # Both are Monte Carlo estimates on a grid of 1 / problems.
    assert result["difference_ci95"] == pytest.approx([low, high], abs=1.5 / problems)
    assert low < result["difference"] < high


def test_accuracies_are_fractions_of_the_problems():
    result = paired_difference([True, False, False, False], [True, True, True, False], seed=0)
    assert (result["first"], result["other"]) == (0.25, 0.75)
    assert (result["difference"], result["problems"]) == (0.5, 4)


def test_pairing_narrows_the_interval():
    expert = np.arange(200) % 2 == 0
    same = paired_difference(expert, expert, seed=0)
    opposite = paired_difference(expert, ~expert, seed=0)
    assert same["difference_ci95"] == [0.0, 0.0]
    low, high = opposite["difference_ci95"]
    assert low < -0.1
    assert high > 0.1


def test_swapping_the_models_mirrors_the_interval():
    rng = np.random.default_rng(3)
    expert, improved = rng.random(100) < 0.4, rng.random(100) < 0.6
    low, high = paired_difference(expert, improved, seed=0, resamples=50_000)["difference_ci95"]
    mirrored = paired_difference(improved, expert, seed=0, resamples=50_000)["difference_ci95"]
    assert mirrored == pytest.approx([-high, -low], abs=0.015)


def test_same_seed_gives_the_same_interval():
    expert, improved = [True, False] * 30, [True, True, False] * 20
    first = paired_difference(expert, improved, seed=5)
    assert paired_difference(expert, improved, seed=5) == first
    assert first["difference_ci95"][0] < first["difference_ci95"][1]


@pytest.mark.parametrize(
    ("expert", "improved", "difference"),
    [([False], [True], 1.0), ([True], [True], 0.0), ([True] * 9, [False] * 9, -1.0)],
)
def test_constant_outcomes_have_an_interval_without_width(expert, improved, difference):
    result = paired_difference(expert, improved, seed=0)
    assert result["difference"] == difference
    assert result["difference_ci95"] == [difference, difference]


@pytest.mark.parametrize(
    ("expert", "improved"), [([], []), ([True], [True, False]), ([[True]], [[True]])]
)
def test_other_shapes_are_refused(expert, improved):
    with pytest.raises(ValueError, match="equally long"):
        paired_difference(expert, improved, seed=0)


def test_pooled_interval_is_that_of_the_index_bootstrap_over_problems():
    rng = np.random.default_rng(3)
    expert = rng.random(200) < 0.5
    improved = np.stack(
        [np.where(rng.random(200) < gain, True, expert) for gain in (0.1, 0.3, 0.5)]
    )
    result = pooled_difference(expert, improved, seed=1, resamples=20_000)
    difference_N = (improved.astype(float) - expert).mean(axis=0)
    indices_RN = rng.integers(200, size=(20_000, 200))
    low, high = np.percentile(difference_N[indices_RN].mean(axis=1), [2.5, 97.5])
    # Both are Monte Carlo estimates on a grid of 1 / 600.
    assert result["difference_ci95"] == pytest.approx([low, high], abs=5 / 600)
    assert result["difference"] == pytest.approx(difference_N.mean(), abs=1e-12)
    assert result["accuracy_of_seeds"] == improved.mean(axis=1).tolist()
    assert result["accuracy"] == pytest.approx(improved.mean(), abs=1e-12)
    assert (result["seeds"], result["problems"]) == (3, 200)


def test_pooled_over_one_seed_is_the_paired_difference():
    rng = np.random.default_rng(5)
    expert, improved = rng.random(500) < 0.4, rng.random(500) < 0.6
    one = paired_difference(expert, improved, seed=1, resamples=20_000)
    pooled = pooled_difference(expert, improved[None], seed=2, resamples=20_000)
    assert pooled["difference"] == one["difference"]
    assert pooled["difference_ci95"] == pytest.approx(one["difference_ci95"], abs=2 / 500)
    # Models that agree tell no more of the problems than one.
    thrice = pooled_difference(expert, np.stack([improved] * 3), seed=2, resamples=20_000)
    assert thrice["difference_ci95"] == pytest.approx(pooled["difference_ci95"], abs=2 / 500)


@pytest.mark.parametrize("shape", [(3,), (0, 3), (1, 4)])
def test_pooled_needs_a_row_a_seed(shape):
    with pytest.raises(ValueError, match="need"):
        pooled_difference(np.ones(3, bool), np.ones(shape, bool), seed=0)


def test_wilson_interval_is_the_textbooks():
    # 81 of 263 (Agresti & Coull 1998): 0.255 to 0.366.
    low, high = accuracy_interval([1] * 81 + [0] * 182, seed=0)
    assert (low, high) == pytest.approx((0.2553, 0.3662), abs=2e-4)
    assert accuracy_interval([0] * 20, seed=0)[0] == 0.0
    assert accuracy_interval([0] * 20, seed=0)[1] == pytest.approx(0.1611, abs=1e-3)
    assert accuracy_interval([1] * 20, seed=0)[1] == 1.0


def test_an_interval_of_means_over_samples_is_a_bootstrap():
    scores = np.random.default_rng(0).choice([0.25, 0.5, 0.75], size=400)
    low, high = accuracy_interval(scores, seed=0)
    half = 1.96 * scores.std() / 20
    assert (low, high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=3e-3)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (5, 0, 0.0625), (0, 5, 0.0625), (7, 7, 1.0), (8, 2, 0.109375), (1, 0, 1.0)],
)
def test_mcnemar_is_the_exact_binomial(gained, lost, p):
    assert mcnemar_p(gained, lost) == pytest.approx(p)


def test_pass_at_k_of_a_problem_is_the_mean_over_all_draws():
    correct, samples = [0, 1, 3, 4], 4
    for k in range(1, samples + 1):
        drawn = [
            np.mean(
                [any(i < c for i in draw) for draw in itertools.combinations(range(samples), k)]
            )
            for c in correct
        ]
        assert pass_at_k(correct, samples, k) == pytest.approx(drawn)
    with pytest.raises(ValueError, match="k = 5"):
        pass_at_k(correct, samples, 5)


def test_macro_average_weighs_benchmarks_alike():
    rng = np.random.default_rng(1)
    pairs = [(rng.random(n) < 0.4, rng.random(n) < 0.6) for n in (50, 1000)]
    found = macro_difference(pairs, seed=0)
    expected = np.mean([b.mean() - a.mean() for a, b in pairs])
    assert found["difference"] == pytest.approx(expected)
    assert found["problems"] == 1050
    # The small benchmark's uncertainty dominates: half of its own interval, about.
    variance = sum((b.astype(float) - a).var() / len(a) for a, b in pairs) / 4
    low, high = found["difference_ci95"]
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.05)


def test_paired_difference_of_sampled_scores_resamples_problems():
    rng = np.random.default_rng(2)
    expert, improved = rng.integers(0, 5, 300) / 4, rng.integers(0, 5, 300) / 4
    found = paired_difference(expert, improved, seed=0)
    difference = improved - expert
    half = 1.96 * difference.std() / 300**0.5
    assert found["difference"] == pytest.approx(difference.mean())
    assert found["difference_ci95"] == pytest.approx(
        [difference.mean() - half, difference.mean() + half], abs=6e-3
    )
