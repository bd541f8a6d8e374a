"""A sweep as a picture: accuracy with its interval against the swept field, and the share of steps kept.

Exercised by `pytest tests/unit/test_comparison.py -k plot`.
"""

import io
from typing import Any

_LOG_FROM = 8.0  # largest through smallest value
_BLUE, _GREY, _ORANGE = "#1f5fa8", "#6b6b6b", "#c2611f"


def draw(content: dict[str, Any], benchmark: str) -> dict[str, bytes]:
    """The picture as svg and png; `content` is that of comparison.json, of a grid with x."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import PercentFormatter

    rows = [(n, r) for n, r in content["variants"].items() if r["accuracy"] and not r["untrained"]]
    xs, label, numeric = positions(content, rows)
    order = sorted(range(len(rows)), key=lambda i: xs[i])
    expert = content["expert"][benchmark]["accuracy"]
    with plt.rc_context({"svg.hashsalt": "lr_ray", "font.size": 10}):
        figure, axis = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
        axis.axhline(expert, color=_GREY, linestyle="--", linewidth=1)
        axis.annotate("expert", (1, expert), xycoords=("axes fraction", "data"), ha="right",
                      va="bottom", color=_GREY, fontsize=9)  # fmt: skip
        pooled = [rows[i][1]["accuracy"][benchmark] for i in order]
        places = [xs[i] for i in order]
        middle = [p["accuracy"] for p in pooled]
        bounds = [[p["difference"] - p["difference_ci95"][0] for p in pooled],
                  [p["difference_ci95"][1] - p["difference"] for p in pooled]]  # fmt: skip
        axis.errorbar(
            places,
            middle,
            yerr=bounds,
            color=_BLUE,
            marker="o",
            capsize=3,
            label="mean of the seeds",
        )
        for place, p in zip(places, pooled, strict=True):
            axis.plot(
                [place] * len(p["accuracy_of_seeds"]),
                p["accuracy_of_seeds"],
                ".",
                color=_BLUE,
                alpha=0.4,
            )
        axis.set(xlabel=label, ylabel=f"accuracy on {benchmark}", ylim=(0, 1))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.grid(axis="y", color="#e4e4e4", linewidth=0.7)
        shares = axis.twinx()
        kept = [rows[i][1]["cost"]["steps_kept_share"] or 0.0 for i in order]
        shares.plot(places, kept, color=_ORANGE, marker="s", markersize=4, linestyle=":")
        shares.set_ylabel("share of steps kept", color=_ORANGE)
        shares.set_ylim(0, max(0.01, 1.15 * max(kept)))
        shares.yaxis.set_major_formatter(PercentFormatter(1))
        shares.tick_params(axis="y", labelcolor=_ORANGE)
        if (
            numeric
            and min(xs) > 0
            and max(xs) >= _LOG_FROM * min(xs)
            and content["grid"]["x"] != "models.amateur"
        ):
            axis.set_xscale("log")
            axis.set_xticks(
                places, [f"{x:g}" for x in places], rotation=45 if len(places) > 8 else 0
            )
            axis.minorticks_off()
        elif not numeric:
            axis.set_xticks(places, [rows[i][0] for i in order], rotation=30, ha="right")
        elif content["grid"]["x"] == "models.amateur":
            for i in order:
                axis.annotate(rows[i][0], (xs[i], 0.02), rotation=90, ha="right", fontsize=7,
                              xycoords=("data", "axes fraction"), color=_GREY)  # fmt: skip
        for side in ("top",):
            axis.spines[side].set_visible(False)
            shares.spines[side].set_visible(False)
        pictures = {kind: io.BytesIO() for kind in ("svg", "png")}
        for kind, stream in pictures.items():
            dated = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 150}
            figure.savefig(stream, format=kind, **dated)
        plt.close(figure)
    return {kind: stream.getvalue() for kind, stream in pictures.items()}


def positions(
    content: dict[str, Any], rows: list[tuple[str, dict[str, Any]]]
) -> tuple[list[float], str, bool]:
    """Where the variants lie, what the axis is of, and whether it is of numbers."""
    x = content["grid"]["x"]
    gaps = [row.get("amateur_gap") for _, row in rows]
    if x == "models.amateur" and all(gap is not None for gap in gaps):
        return (
            [float(gap) for gap in gaps if gap is not None],
            "accuracy of expert minus amateur",
            True,
        )
    values = [row["value"] for _, row in rows]
    if all(isinstance(value, int | float) for value in values):
        return [float(value) for value in values], x, True
    return [float(i) for i in range(len(rows))], x, False
