"""What a probe says of a pair: the verdict and the figures behind it."""

from typing import Any

from lr_ray.report.page.charts import BASE, NEW, intervals
from lr_ray.report.page.source import Source
from lr_ray.report.pair import lines

TITLE = "Verdict"
_SAID = {"special": "special tokens", "end": "end of an answer", "template": "chat template"}


def section(source: Source) -> dict[str, Any] | None:
    found = source.found
    if "verdict" not in found:
        return None
    accuracy, picture = found["accuracy"], None
    if accuracy:
        rows = [
            (label, NEW if label == "expert" else BASE, model["accuracy"], model["accuracy_ci95"])
            for label, model in accuracy["models"].items()
        ]
        said = "; ".join(f"{name} {value:.1%}" for name, _, value, _ in rows)
        title = f"Accuracy of both models with 95 % intervals: {said}"
        picture = intervals("outcome", title, rows)
    return {
        **found,
        "chart": picture,
        "pair": [(_SAID.get(label, label), text) for label, text in lines(found["pair"])],
    }
