r"""How well answers are read and graded, on the benchmarks' own rows: no model, no network.

    python benchmarks/grading.py --data-dir DIR [--problems N]
    python benchmarks/grading.py --forms

With DIR of <benchmark>/test.jsonl: the reference solution of each problem ("gold", where the set has
solutions, else the answer in a box), its answer in a box ("boxed"), and its answer in a box judged
against the next problem that expects another ("rotated"). With --forms: equal and unequal ways of
writing, with our verdict, the right one, and that of the numeric rule of the Qwen2.5-Math evaluation
toolkit.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lr_ray.evaluation.exact_numbers import number
from lr_ray.evaluation.extraction import extract_answer, kind_of
from lr_ray.evaluation.graders import Graders
from lr_ray.evaluation.grading import Verdict
from lr_ray.evaluation.latex import key, tidy
from lr_ray.problems.rows import Problem
from lr_ray.problems.sources import benchmark

SETS = ("gsm8k", "math500", "svamp", "asdiv", "minerva_math", "olympiadbench", "mmlu_stem")


class Trial(NamedTuple):
    problem_id: str
    expected: str
    completion: str
    note: str = ""


def problems(name: str, data_dir: str, most: int | None) -> list[Problem]:
    found = [p for p in benchmark(name, "test", data_dir, "data").problems() if isinstance(p, Problem)]
    return found[:most]


def boxed(answer: str) -> str:
    return rf"The answer is $\boxed{{{answer.replace('$', '')}}}$."


def gold(name: str, data_dir: str, rows: list[Problem]) -> list[Trial]:
    """Each problem with its reference solution, or with its answer in a box where that names none."""
    lines = Path(data_dir, name, "test.jsonl").read_text().splitlines()
    trials = []
    for row in rows:
        raw = json.loads(lines[row.row - 1])
        solution = {
            "gsm8k": lambda raw: raw["answer"],
            "math500": lambda raw: raw["solution"],
            "minerva_math": lambda raw: raw["solution"],
            "olympiadbench": lambda raw: next((s for s in raw["solution"][:1] if r"\boxed" in s), None),
        }.get(name, lambda raw: None)(raw)
        trials.append(Trial(row.problem_id, row.answer, solution or boxed(row.answer)))
    return trials


def rotated(rows: list[Problem]) -> Iterator[Trial]:
    """Each problem's answer in a box as the answer to the next problem that expects another text."""
    for i, row in enumerate(rows):
        for other in rows[i + 1 :] + rows[:i]:
            if key(tidy(other.answer)) != key(tidy(row.answer)):
                yield Trial(other.problem_id, other.answer, boxed(row.answer), row.problem_id)
                break


def judge(kind: str, trials: list[Trial], graders: Graders) -> list[tuple[Trial, str | None, Verdict]]:
    read = [extract_answer(t.completion, kind) for t in trials]
    cases = [(t.expected, answer, kind) for t, answer in zip(trials, read, strict=True)]
    return list(zip(trials, read, graders.judge_all(cases), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--problems", type=int, help="of each set; all where left out")
    args = parser.parse_args()
    with Graders() as graders:
        for name in SETS:
            rows = problems(name, args.data_dir, args.problems)
            kind = kind_of(name)
            t = time.perf_counter()
            for what, trials in (("gold", gold(name, args.data_dir, rows)), ("boxed", [Trial(r.problem_id, r.answer, boxed(r.answer)) for r in rows]), ("rotated", list(rotated(rows)))):
                res = judge(kind, trials, graders)
                ok = [r for r in res if r[2].correct]
                print(name, what, len(res), len(ok), f"{100*len(ok)/len(res):.2f}", f"{time.perf_counter()-t:.1f}s", sum(r[0].completion != boxed(r[0].expected) for r in res))
                for trial, answer, v in res:
                    if v.correct == (what == "rotated"):
                        print("   ", trial.problem_id, repr(trial.expected), "|", repr(answer), v.how)


if __name__ == "__main__":
    main()
