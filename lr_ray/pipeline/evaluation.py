"""An evaluation in its run directory: asked, graded, stored; and the job that asks any endpoint.

lr-ray evaluate --endpoint URL --models A,B [--evaluation.benchmarks gsm8k]
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from lr_ray import report
from lr_ray.config import EndpointConfig, Evaluation
from lr_ray.console import StageProgress, quiet_others, rate
from lr_ray.errors import StageError, UserError, counted
from lr_ray.evaluation import answers, results
from lr_ray.evaluation.client import check_endpoint
from lr_ray.evaluation.evaluate import Serve, ServedModel, evaluate
from lr_ray.evaluation.paper import conditions
from lr_ray.evaluation.tasks import Task, both_names, load_tasks, repeated_rows, variant_name
from lr_ray.problems import INDEX, read_index, read_problems
from lr_ray.problems.files import is_file_name
from lr_ray.run.store import SCHEMA_VERSION, Run, read_asked, read_summary, shaped
from lr_ray.run.versions import versions
from lr_ray.runtime.connection import without_user
from lr_ray.runtime.progress import recorded


def run_evaluation(
    run: Run,
    console: Console,
    groups: Sequence[Sequence[ServedModel]],
    serve: Serve,
    evaluation: Evaluation,
    stop_token_ids: Sequence[int] = (),
    on_asked: Callable[[int, int], None] = lambda done, total: None,
    watch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Asks each group of models while `serve` has it up, grades and writes evaluation/.

    Returns the parts of summary.json: `accuracy` (see `results.summarise`, and `kind`, the grader's name),
    `accuracy_mean` with several tasks and `accuracy_mean_paper` with several of protocol paper,
    `prompt_alone` of protocol both, `perturbations` where some are asked for (see `results.survival`),
    `serving`: seconds until models answered, and `evaluation`: answers, how many of them were asked for in
    its seconds (`answers_timed`), how many problems are sampled from too (`sampled_rows`), and the conditions
    that all models were asked under. `on_asked` gets (answers, answers in all); `watch` is that of `ask`.
    Raises UserError when a benchmark cannot be read, before anything is asked.
    """
    started, labels = time.monotonic(), [model.label for group in groups for model in group]
    tasks = load_tasks(evaluation)
    repeated = repeated_rows(tasks)
    for name, repeats in repeated.items():
        console.print(
            f"evaluation {name}: {counted(repeats, 'repeated row')}; each problem is asked once"
        )
    sampled = tell_sampled(console, run, tasks)
    with StageProgress(console, "evaluation", 0, "answers", on_asked) as asking:
        told = _Told(console, asking)
        tables = evaluate(
            tasks,
            groups,
            lambda group: told.timed(serve(group)),
            evaluation,
            run,
            told.asked,
            told.graded,
            stop_token_ids,
            told.without,
            watch,
        )
    run.check_owner()
    parts = write_tables(run, tasks, tables, evaluation, labels)
    seconds = time.monotonic() - started - told.starting
    count = sum(len(labels) * table.num_rows for table in tables.values())
    timed = asking.done - asking.first[0] if asking.first else 0
    parts["serving"] = {"seconds": told.starting}
    parts["evaluation"] = {
        "answers": count,
        "answers_timed": timed,
        "seconds": seconds,
        **conditions_of(evaluation, stop_token_ids),
        **({"repeated_rows": repeated} if repeated else {}),
        **({"sampled_rows": sampled} if sampled else {}),
        **({"left_out": told.left_out} if told.left_out else {}),
    }
    pace = f", {rate(timed / seconds)}/s" if timed else ""
    console.print(f"evaluation {counted(count, 'answer')}, {seconds:.1f} s{pace}")
    return parts


def tell_sampled(console: Console, run: Run, tasks: Sequence[Task]) -> dict[str, int]:
    """How many problems of each task the run samples from too, which is said; of those that have some."""
    if not run.exists(INDEX):
        return {}
    staged = read_problems(run, np.arange(read_index(run)["problems"]))["problem"].to_pylist()
    known, found = {tuple(problem.split()) for problem in staged}, dict[str, int]()
    for task in tasks:
        if same := sum(tuple(row["problem"].split()) in known for row in task.rows):
            found[task.name] = same
            console.print(
                f"evaluation {task.name}: {same} of {counted(len(task.rows), 'problem')} are also sampled "
                "from, and so not held out"
            )
    return found


class _Told:
    """What an evaluation says while models start, are asked and graded.

    `starting`: seconds until models answered; `left_out`: fields that an endpoint does not take, by model.
    """

    def __init__(self, console: Console, asking: StageProgress) -> None:
        self.console, self.asking, self.starting = console, asking, 0.0
        self.left_out: dict[str, list[str]] = {}
        self._grading: StageProgress | None = None

    @contextlib.contextmanager
    def timed(self, served: AbstractContextManager[str]) -> Iterator[str]:
        begun = time.monotonic()
        with served as url:
            self.starting += time.monotonic() - begun
            self.asking.update(self.asking.done)  # the time left is of asking, not of starting
            yield url

    def asked(self, done: int, total: int) -> None:
        if self.asking.total != total and done:
            self.console.print(f"evaluation {done} of {total} answers are there from before")
        self.asking.update_of(done, total)

    def graded(self, done: int, total: int) -> None:
        self._grading = self._grading or StageProgress(self.console, "grading", 0, "answers")
        self._grading.update_of(done, total)

    def without(self, model: str, field: str) -> None:
        if field not in self.left_out.setdefault(model, []):
            self.left_out[model].append(field)
            self.console.print(
                f"evaluation {model}: asked without {field}, which its endpoint does not take"
            )


def write_tables(
    run: Run,
    tasks: Sequence[Task],
    tables: dict[str, pa.Table],
    evaluation: Evaluation,
    labels: list[str],
) -> dict[str, Any]:
    """Writes evaluation/, and returns the summary's parts on accuracy."""
    accuracy = {}
    pairs = both_names(evaluation) if evaluation.protocol != "same" else []
    papers = {paper for _, paper in pairs}
    kinds = evaluation.perturbations
    variants = {variant_name(name, kind): (name, kind) for name in tables for kind in kinds}
    for task in tasks:
        name, table = task.name, tables[task.name]
        run.write_table(f"evaluation/{name}.parquet", table)
        run.write_lines(f"evaluation/{name}-changed.jsonl", results.changed(table, labels))
        if name in variants:
            continue
        if evaluation.grader_check or name in papers:
            disagreed = results.disagreements(table, labels)
            run.write_lines(f"evaluation/{name}-disagree.jsonl", disagreed)
        accuracy[name] = results.summarise(table, labels, evaluation.seed) | {"kind": task.kind}
        if name in papers:
            accuracy[name]["protocol"] = "paper"
    parts: dict[str, Any] = {"accuracy": accuracy}
    for part, of_paper in zip(results.MEANS, (False, True), strict=True):
        of = {name: tables[name] for name in accuracy if (name in papers) == of_paper}
        if len(of) > 1:
            parts[part] = results.macro(of, labels, evaluation.seed)
    if kinds:
        parts["perturbations"] = {
            name: {
                kind: results.survival(
                    tables[name], tables.get(variant_name(name, kind)), labels, evaluation.seed
                )
                for kind in kinds
            }
            for name in accuracy
        }
    if evaluation.protocol == "both":
        parts["prompt_alone"] = {
            same: results.prompt_alone(tables[same], tables[paper], labels[0], evaluation.seed)
            for same, paper in pairs
        }
    return parts


def conditions_of(evaluation: Evaluation, stop_token_ids: Sequence[int]) -> dict[str, Any]:
    """How the models were asked, by protocol: `conditions` and `conditions_paper`."""
    fields = {"system_prompt", "prefill", "max_new_tokens", "temperature", "stop"}
    same = evaluation.model_dump(include=fields) | {"stop_token_ids": list(stop_token_ids)}
    found = {"conditions": same, "conditions_paper": conditions(evaluation)}
    left_out = {"same": "conditions_paper", "paper": "conditions"}.get(evaluation.protocol)
    return {name: asked for name, asked in found.items() if name != left_out}


def tell_changed(run: Run, evaluation: Evaluation) -> None:
    """Prints which of the benchmarks' own files hold other problems than a finished evaluation asked."""
    own = [name for name in evaluation.benchmarks if is_file_name(name)]
    changed: dict[str, None] = {}
    if own:
        asked = evaluation.model_copy(update={"benchmarks": own, "perturbations": []})
        with contextlib.suppress(UserError, StageError):  # as of a file that is gone
            for task in load_tasks(asked):
                asked_rows = run.answers(task.name, ["problem", "expected"]).to_pylist()
                there = {(row["problem"], row["expected"]) for row in asked_rows}
                if there != {(row["problem"], row["answer"]) for row in task.rows}:
                    changed[task.benchmark] = None
    for name in changed:
        print(
            f"{run.location}: {name} holds other problems now than were asked; give another --run"
        )


def evaluate_endpoint(config: EndpointConfig, run: Run) -> int:
    """Evaluates what an endpoint serves into a run directory of its own. Returns the exit code."""
    started, url = time.monotonic(), config.endpoint
    config = config.model_copy(update={"endpoint": without_user(url)})  # what is shown and kept
    run.create()
    with run.lock():
        _check_same(run, config)
        summary = read_summary(run)
        if "accuracy" in summary:
            print(f"{run.location}: evaluation finished before; nothing to do")
            tell_changed(run, config.evaluation)
            with shaped(run.location, "summary.json"):
                if not run.exists(report.PAGE):
                    report.write_page(run, summary)
                report.print_summary(Console(highlight=False), run, summary)
            return 0
        check_endpoint(url, config.models, config.evaluation.max_new_tokens)
        load_tasks(config.evaluation)
        if not run.exists("run.json"):
            asked = {"schema_version": SCHEMA_VERSION, "config_hash": config.digest()}
            asked |= {"versions": versions(), "config": config.model_dump(mode="json")}
            run.write_json("run.json", asked)
        log = run.log_path()
        print(f"endpoint   {config.endpoint}\nrun        {run.location}\nlog        {log}")
        models = [
            ServedModel(name, name, f"{config.endpoint.rstrip('/')} {name}", untrained=not i)
            for i, name in enumerate(config.models)
        ]
        if config.evaluation.drift:
            print("drift      left out: an endpoint shows no weights")
        with quiet_others(log) as console, recorded(run):
            there = lambda group: contextlib.nullcontext(url)  # noqa: E731
            summary |= run_evaluation(run, console, [models], there, config.evaluation)
            del summary["serving"]  # somebody else's
        summary["seconds_total"] = time.monotonic() - started
        run.write_json("summary.json", summary)
        run.remove(answers.FOLDER)  # the tables hold them all
        report.write_page(run, summary)
        report.print_summary(Console(highlight=False), run, summary)
    return 0


def _check_same(run: Run, config: EndpointConfig) -> None:
    """Raises UserError when the run holds something else."""
    if not run.exists("run.json"):
        return
    there = read_asked(run)["config"]
    if "endpoint" not in there:
        raise UserError(f"--run {run.location}: holds a run of the pipeline; give another --run")
    differing = [change for change in config.changes(there) if change.effects]
    if differing:
        raise UserError(
            f"--run {run.location}: holds an evaluation with another {', '.join(map(str, differing))}; "
            "give another --run, or the values in its run.json"
        )
