r"""How well answers are read and graded, on the benchmarks' own rows: no model, no network.

    python benchmarks/grading.py --data-dir DIR [--problems N]
    python benchmarks/grading.py --data-dir DIR --others [--problems N]
    python benchmarks/grading.py --forms

With DIR of <benchmark>/test.jsonl: each problem's reference solution where it states an answer, else
its answer in a box ("gold"); its answer in a box ("boxed"); its answer in a box, judged against the next
problem that expects another text ("rotated"), and with its last digit one up ("altered"). With --forms:
ways of writing an answer, with our verdict, what is right, and what the numeric rule of the Qwen2.5-Math
evaluation toolkit says. With --others: what math-verify alone and the toolkit's number and string rules say
of gold, boxed and rotated answers, and how often they agree with ours.
"""

import argparse
import json
import math
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from grading_forms import FORMS

from lr_ray.grading.judging import Verdict
from lr_ray.grading.latex import key, tidy
from lr_ray.grading.numerals import number
from lr_ray.grading.others import OTHERS
from lr_ray.grading.pool import Graders, Item
from lr_ray.grading.reading import extract_answer
from lr_ray.problems.benchmarks import grader_of
from lr_ray.problems.rows import Problem
from lr_ray.problems.sources import benchmark

SETS = ("gsm8k", "math500", "svamp", "asdiv", "minerva_math", "olympiadbench", "mmlu_stem")
# Where a reference solution of OlympiadBench states its answer at all, it ends with it.
STATED = re.compile(r"(?:he answer is|final answer is)[^.\n]*\$[^$]+\$\.?$")
WRONG = ("rotated", "altered")
REWRITTEN = "equal answers written differently"


class Trial(NamedTuple):
    problem_id: str
    expected: str
    completion: str


class Outcome(NamedTuple):
    trial: Trial
    extracted: str | None
    verdict: Verdict


def boxed(answer: str) -> str:
    in_math = re.sub(r"(?<!\\)\$", "", answer)
    return rf"The answer is $\boxed{{{in_math}}}$."


def solution(name: str, row: dict[str, Any]) -> str | None:
    """The reference solution of a raw row, or None where it states no answer."""
    if name == "gsm8k":
        return row["answer"]
    if name in ("math500", "minerva_math"):
        return row["solution"]
    if name == "olympiadbench" and STATED.search(row["solution"][0].rstrip()):
        return row["solution"][0]
    return None


def rotated(rows: list[Problem]) -> list[Trial]:
    trials = []
    for i, row in enumerate(rows):
        others = rows[i + 1 :] + rows[:i]
        other = next((o for o in others if key(tidy(o.answer)) != key(tidy(row.answer))), None)
        if other is not None:
            trials.append(Trial(other.problem_id, str(other.answer), boxed(str(row.answer))))
    return trials


def altered(rows: list[Problem]) -> list[Trial]:
    """Each answer that has a digit, with its last one a digit up, 9 as 0."""
    trials = []
    for row in rows:
        answer = str(row.answer)
        digit = re.search(r"\d(?=\D*$)", answer)
        if digit is not None:
            up = str((int(digit[0]) + 1) % 10)
            other = answer[: digit.start()] + up + answer[digit.end() :]
            trials.append(Trial(row.problem_id, answer, boxed(other)))
    return trials


def judged(kind: str, trials: list[Trial], graders: Graders) -> list[Outcome]:
    read = [extract_answer(trial.completion, kind) for trial in trials]
    cases = [(t.expected, answer, kind) for t, answer in zip(trials, read, strict=True)]
    return [Outcome(*o) for o in zip(trials, read, graders.judge_all(cases), strict=True)]


def is_rewritten(outcome: Outcome) -> bool:
    """Whether the two answers are the same number, or the same but for an "x =" before one."""
    texts = [tidy(text or "") for text in (outcome.trial.expected, outcome.extracted)]
    numbers = [number(text) for text in texts]
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0].value == numbers[1].value
    return len({key(text.rpartition("=")[2]) for text in texts}) == 1


def kind_of_failure(what: str, outcome: Outcome, in_box: Verdict) -> str:
    if what in WRONG:
        if not is_rewritten(outcome):
            return "different answers judged equal"
        return REWRITTEN if what == "rotated" else "the same number of another unit"
    if outcome.extracted is None:
        return "no answer read"
    if what == "gold" and in_box.correct:
        return "what the solution states is not its answer"
    return f"equal answers judged {outcome.verdict.how!r}"


def trials_of(name: str, data_dir: str, most: int | None) -> tuple[dict[str, list[Trial]], int]:
    """The trials of a set by what they are, and how many have a solution."""
    items = benchmark(name, "test", data_dir, "data").problems()
    rows = [item for item in items if isinstance(item, Problem) and item.answer][:most]
    lines = Path(data_dir, name, "test.jsonl").read_text(encoding="utf-8").split("\n")
    solutions = [solution(name, json.loads(lines[row.row - 1])) for row in rows]
    in_box = [Trial(row.problem_id, str(row.answer), boxed(str(row.answer))) for row in rows]
    gold = [
        b._replace(completion=s or b.completion) for b, s in zip(in_box, solutions, strict=True)
    ]
    trials = {"gold": gold, "boxed": in_box, "rotated": rotated(rows), "altered": altered(rows)}
    return trials, sum(s is not None for s in solutions)


def compare(name: str, data_dir: str, most: int | None, graders: Graders) -> None:
    """Prints a row for each sort of answer: right by each grader, and the same verdict as ours."""
    for what, given in trials_of(name, data_dir, most)[0].items():
        ours = [o.verdict.correct for o in judged(grader_of(name), given, graders)]
        cells = [name, what, str(len(given)), percent(sum(ours), len(ours))]
        for other in OTHERS.values():
            found = graders.grade_all(other, [Item(t.expected, t.completion) for t in given])
            theirs = [graded.verdict.correct for graded in found]
            same = sum(a == b for a, b in zip(ours, theirs, strict=True))
            cells += [percent(sum(theirs), len(theirs)), percent(same, len(ours))]
        print(f"| {' | '.join(cells)} |", flush=True)


def measure(name: str, data_dir: str, most: int | None, graders: Graders) -> dict[str, list[str]]:
    """Prints the set's row of the table. Returns the exceptions by kind."""
    trials, solved = trials_of(name, data_dir, most)
    started = time.perf_counter()
    outcomes = {what: judged(grader_of(name), given, graders) for what, given in trials.items()}
    per_s = sum(map(len, outcomes.values())) / (time.perf_counter() - started)
    verdicts = {o.trial.problem_id: o.verdict for o in outcomes["boxed"]}
    exceptions = defaultdict(list)
    for what, found in outcomes.items():
        for o in found:
            if o.verdict.correct == (what in WRONG):
                failure = kind_of_failure(what, o, verdicts[o.trial.problem_id])
                exceptions[f"{what}: {failure}"].append(
                    f"{o.trial.problem_id}: expects `{o.trial.expected}`, reads `{o.extracted}`"
                )
    shares = [percent(sum(o.verdict.correct for o in f), len(f)) for f in outcomes.values()]
    unequal = [o for o in outcomes["rotated"] if not is_rewritten(o)]
    shares.insert(3, percent(sum(o.verdict.correct for o in unequal), len(unequal)))
    cells = [
        name,
        str(len(trials["boxed"])),
        str(solved),
        *shares,
        f"{per_s:.0f}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)
    return exceptions


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}" if whole else "-"


def toolkit_number(text: str) -> float | None:
    """A plain number as the toolkit reads it, without currency, percent, degrees and "x ="."""
    text = re.sub(r"\\[$%!]|[$%,\s]|\^\{?\\circ\}?|\\text\{.*?\}$|^[a-z]=", "", text)
    try:
        return float(text)
    except ValueError:
        return None


def toolkit_says(expected: str, extracted: str) -> str:
    """Its rule on two plain numbers: within 1e-4 of the expected one, its 100th or 100-fold; else a dash."""
    gold, answer = toolkit_number(expected), toolkit_number(extracted)
    if gold is None or answer is None:
        return "-"
    near = any(math.isclose(answer, item, rel_tol=1e-4) for item in (gold / 100, gold, gold * 100))
    return "equal" if near else "different"


def print_forms() -> None:
    words = {True: "equal", False: "different"}
    with Graders() as graders:
        verdicts = graders.judge_all([(f.expected, f.extracted, "math") for f in FORMS])
    print("| kind | expected | extracted | right | ours | how | toolkit's numeric rule |")
    print("|---|---|---|---|---|---|---|")
    for form, verdict in zip(FORMS, verdicts, strict=True):
        print(
            f"| {form.kind} | `{form.expected}` | `{form.extracted}` | {words[form.equal]} | "
            f"{words[verdict.correct]} | {verdict.how} | {toolkit_says(form.expected, form.extracted)} |"
        )
    theirs = [(toolkit_says(f.expected, f.extracted), words[f.equal]) for f in FORMS]
    right = sum(v.correct == f.equal for v, f in zip(verdicts, FORMS, strict=True))
    print(f"\nours right: {right} of {len(FORMS)}")
    told = [pair for pair in theirs if pair[0] != "-"]
    print(
        f"toolkit's numeric rule right: {sum(a == b for a, b in told)} of {len(told)} plain numbers"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--data-dir", help="has <benchmark>/test.jsonl")
    mode.add_argument("--forms", action="store_true", help="print ways of writing answers")
    parser.add_argument("--others", action="store_true", help="hold other graders against ours")
    parser.add_argument("--problems", type=int, help="of each set, from its start; all by default")
    args = parser.parse_args()
    if args.forms:
        print_forms()
        return
    if args.others:
        names = [f"{name} right % | as ours %" for name in OTHERS]
        print(f"| set | answers | count | ours right % | {' | '.join(names)} |")
        print("|---" * (4 + 2 * len(OTHERS)) + "|")
        with Graders(time_limit_s=10) as graders:
            for name in SETS:
                if grader_of(name) == "math":
                    compare(name, args.data_dir, args.problems, graders)
        return
    print("| set | rows | with solution | gold correct % | boxed correct % | rotated correct % "
          "| without equal ones % | altered correct % | answers/s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    with Graders() as graders:
        found = {name: measure(name, args.data_dir, args.problems, graders) for name in SETS}
    for name, exceptions in found.items():
        for failure, cases in exceptions.items():
            if cases:
                print(f"\n{name}, {failure} ({len(cases)}):")
                print("\n".join(f"- {case}" for case in cases))


if __name__ == "__main__":
    main()
