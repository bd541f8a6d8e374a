"""What was kept: by the threshold and by others, where in the trajectories, and what labels say."""

from collections import Counter
from typing import Any

import numpy as np

from lr_ray.report.page.charts import BASE, GREY, NEW, WARM, chart, percents
from lr_ray.report.page.source import MOST_STEPS, Scored, Source
from lr_ray.report.page.words import Words
from lr_ray.report.probe import thresholds

TITLE = "What was kept"
_MOST = 12  # tokens that are listed
_BINS = 40
_LEAST_KL = 1e-4  # nats; what is below is drawn there


def section(source: Source) -> dict[str, Any] | None:
    scored = source.scored
    if scored is None or not len(scored.steps.kl):
        return None
    sampling = source.config["sampling"]
    threshold, taken_L = sampling["kl_threshold"], scored.steps.completion[scored.kept_L]
    by_kl = sampling["selection"] == "kl"
    charts = [_histogram(scored, threshold if by_kl else None), _positions(scored)]
    if scored.entropy_L.any():
        charts.append(_entropies(scored))
    return {
        "steps": len(scored.steps.kl),
        "kept": len(scored.kept_L),
        "trajectories": len(scored.steps.lengths),
        "whole": len(scored.steps.kl) < MOST_STEPS,
        "sampling": sampling,
        "by_kl": by_kl,
        "contrastive": sampling["labels"].partition(":")[0] == "contrast",
        "thresholds": thresholds(scored.steps, threshold),
        "otherwise": float((scored.preferred_L != taken_L).mean()) if len(taken_L) else None,
        "entropy": float(scored.entropy_L.mean()) if len(taken_L) else None,
        "charts": charts,
        "tokens": _tokens(source.words, scored) if source.words else None,
    }


def _tokens(words: Words, scored: Scored) -> dict[str, Any]:
    ids = scored.steps.completion
    all_of = Counter(ids.tolist())
    kept = Counter(ids[scored.kept_L].tolist()).most_common(_MOST)
    pairs = zip(ids[scored.kept_L].tolist(), scored.preferred_L.tolist(), strict=True)
    otherwise = Counter((a, b) for a, b in pairs if a != b).most_common(_MOST)
    return {
        "kept": [(words.alone(i), count, count / all_of[i]) for i, count in kept],
        "otherwise": [(words.alone(a), words.alone(b), count) for (a, b), count in otherwise],
    }


def _histogram(scored: Scored, threshold: float | None) -> str:
    kl_N = np.maximum(scored.steps.kl, _LEAST_KL)
    edges = np.geomspace(0.99 * _LEAST_KL, max(1.0, float(kl_N.max())) * 1.001, _BINS)
    where = f"; the line is the threshold, {threshold:g}" if threshold is not None else ""
    with chart("kl", f"How many steps have which KL, from {_LEAST_KL:g} nats{where}.") as c:
        for mask, colour, label, hatch in (
            (~scored.kept, BASE, "not kept", None),
            (scored.kept, WARM, "kept", "///"),
        ):
            c.axes.hist(
                kl_N[mask], edges, color=colour, label=label, alpha=0.85, hatch=hatch, linewidth=0
            )
        if threshold:
            c.axes.axvline(threshold, color=GREY, linestyle="--", linewidth=1.2)
            top = {"xycoords": ("data", "axes fraction"), "color": GREY, "ha": "right", "va": "top"}
            c.axes.annotate(f"threshold {threshold:g} ", (threshold, 0.98), **top)
        c.axes.set(xscale="log", xlabel="KL of a step, nats", ylabel="steps", yscale="log")
        c.axes.legend(fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.99))
    return c.svg


def _positions(scored: Scored) -> str:
    position_N = scored.steps.position
    edges = np.unique(np.linspace(0, position_N.max() + 1, _BINS).astype(int))
    kept, _ = np.histogram(position_N[scored.kept], edges)
    every, _ = np.histogram(position_N, edges)
    said = "Which share of the steps is kept, by their place in the trajectory."
    with chart("position", said) as c:
        c.axes.stairs(kept / np.maximum(every, 1), edges + 1, color=NEW, fill=True, alpha=0.85)
        c.axes.set(xlabel="place in the trajectory, tokens", ylabel="share kept")
        percents(c.axes.yaxis)
    return c.svg


def _entropies(scored: Scored) -> str:
    mean = scored.entropy_L.mean()
    with chart("entropy", f"Entropy of the labels, nats; mean {mean:.2f}.") as c:
        c.axes.hist(scored.entropy_L, _BINS, color=NEW, alpha=0.85)
        c.axes.axvline(mean, color=GREY, linestyle="--", linewidth=1)
        c.axes.set(xlabel="entropy of a label, nats (0: one token has it all)", ylabel="kept steps")
    return c.svg
