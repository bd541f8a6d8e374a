"""What a run would ask for, as lines for people.

lr-ray plan --config qwen2.5-math-1.5b [--gpus 8] [--rates RUN]
"""

import itertools
import math
from collections.abc import Iterator

from lr_ray.config import STAGES, Config, changed, uses_gpus
from lr_ray.config.resources import AUTO
from lr_ray.errors import StageError, UserError, counted, series
from lr_ray.placement import arrange, find_models, needs
from lr_ray.placement.cards import Cards, local, pretended
from lr_ray.placement.processes import Processes, at_once
from lr_ray.placement.sizes import Models
from lr_ray.placement.trainer import trained
from lr_ray.problems.benchmarks import find
from lr_ray.problems.sources import ENDLESS, check_source, is_registered, open_source
from lr_ray.report.rates import NO_RATES, durations
from lr_ray.run.store import Run

NOUNS = {"expert": "engine", "amateur": "engine", "trainer": "worker", "server": "replica"}
COUNT = ("", "thousand", "million", "billion")


def lines(
    config: Config,
    name: str,
    gpus_given: int | None = None,
    gpu_memory_gb: float | None = None,
    rates: str | None = None,
) -> list[tuple[str, str]]:
    """Label and text of each line of the plan; a line of what does not fit is labelled "!".

    `gpus_given` with `gpu_memory_gb` GB each are taken to be there; `rates`: a finished run whose seconds
    are scaled to this one. Raises UserError for models, problems, benchmarks or rates that cannot be read,
    and rates of other models.
    """
    cards, there = _cards(config, gpus_given, gpu_memory_gb)
    models, unknown = find_models(config)
    told = [("plan", f"{name}, {there}"), *_models(config, models, unknown)]
    (problems, known), asked = how_many(config), answers(config)
    wrong, largest = warnings(config, models), {}
    for stage in STAGES:
        try:
            config = arrange(config, models, cards, [stage])
        except UserError as error:
            told.append((stage, "does not fit"))
            wrong.append(str(error))
            continue
        processes = needs.processes(config, models, stage)
        way = needs.together(config, stage)
        least, most = (at_once(processes, way, more) for more in (False, True))
        grown = f", up to {most}" if most > least else ""
        asked_at_once = f"{counted(least, 'GPU')} at once{grown}" if most else "on CPUs"
        told.append((stage, asked_at_once + ("" if way else ", one after the other")))
        for process in processes:
            told += _processes(process, cards.memory)
        said = f"{'' if known else 'at most '}{counted(problems, 'problem')}"
        told.append(("", _amounts(config, models, stage, problems, asked, said)))
        largest[stage] = most
    at_most = max(largest.values(), default=0)
    where = series([stage for stage, count in largest.items() if count == at_most > 0])
    if at_most:
        told.append(("largest", f"{counted(at_most, 'GPU')} at once, in {where}"))
    parts = needs.disk(config, models, problems)
    if parts:
        listed = ", ".join(f"{name} {amount(value)}" for name, value in parts.items())
        total = amount(sum(parts.values()))
        told.append(("disk", f"at most about {total} in the run directory: {listed}"))
    whole = changed(config, {"sampling.max_problems": max(1, problems)})  # as many as are there
    told += durations(whole, Run(rates, "--rates"), asked) if rates else [("duration", NO_RATES)]
    if config.rounds > 1:
        told.append(
            ("rounds", f"at most {config.rounds}, one after the other; all above is of each")
        )
    return told + [("!", line) for line in wrong]


def _models(config: Config, models: Models, unknown: dict[str, str]) -> Iterator[tuple[str, str]]:
    for role, model in models.items():
        if model:
            size = f"{amount(model.parameters, COUNT)} parameters"
            reference = getattr(config.models, role)
            yield role, f"{reference}: {size}, reads {model.context} tokens"
        elif role in unknown:
            yield role, unknown[role]


def _cards(config: Config, count: int | None, memory_gb: float | None) -> tuple[Cards, str]:
    """The GPUs that the plan is for, and how they are said."""
    memory = 1e9 * (memory_gb or 80)
    if not uses_gpus(config):
        return pretended(count or 0, memory), "on CPUs alone"
    here = local()
    if count is None and memory_gb is None and here.count:
        return here, f"on {here} of this machine"
    cards = pretended(count or 1, memory)
    nodes = f" in {len(cards.nodes)} nodes" if len(cards.nodes) > 1 else ""
    other = "" if count else "; --gpus N and --gpu-memory-gb G plan for others"
    return cards, f"on {cards}{nodes}{other}"


def _processes(process: Processes, gpu: float) -> list[tuple[str, str]]:
    """How many, what each asks for, and what its memory holds."""
    role, noun = process.role, NOUNS[process.role]
    least, most = process.least // process.models, process.most // process.models
    of = f"each of {process.models}" if process.models > 1 else "both"
    count = counted(least, noun) + f" of {of} models" * (role == "server")
    count += f", up to {most}" if most > least else ""
    asked = [
        f"{v / 1e9:g} GB memory" if k == "memory" else f"{v:g} {k}"
        for k, v in process.place.bundle().items()
    ]
    told = [(f"  {role}", f"{count}; each asks for {', '.join(asked) or 'nothing'}")]
    if process.weights is None:
        return told
    on_gpu = process.place.gpus > 0
    parts = [f"weights {amount(process.weights)} in {process.dtype}"]
    if role == "trainer":
        parts.append(f"AdamW's state and gradients {amount(process.state)}")
    if on_gpu:
        parts.append(f"activations and buffers about {amount(process.overhead)}")
    if process.token:
        cache = 1e9 * (process.place.cache_gb or 0) if on_gpu else process.wanted
        usual = process.usual * process.token
        parts.append(
            f"cache {amount(cache)}, {cache // usual:.0f} sequences of {process.usual} tokens"
        )
    room = f"; in {amount(process.room(gpu))} of each GPU" if on_gpu else ""
    return [*told, ("", ", ".join(parts) + room)]


def _amounts(
    config: Config, models: Models, stage: str, problems: int, answers: int | None, said: str
) -> str:
    """How much a stage has to do; `said` are the problems in words."""
    sampling, training, expert = config.sampling, config.training, models["expert"]
    if stage == "sampling":
        shards = math.ceil(problems / sampling.batch_size)
        said += f" in {counted(shards, 'shard')}, "
        tokens = problems * sampling.longest
        if sampling.method == "rejection":
            drawn = tokens * sampling.rejection.samples
            return said + f"at most {amount(drawn, COUNT)} tokens decoded"
        k = min(sampling.top_k, expert.rows) if expert else sampling.top_k
        exchanged = amount(8 * tokens * k)
        return said + f"at most {amount(tokens, COUNT)} tokens decoded, {exchanged} exchanged"
    if stage == "training":
        unit = "kept steps" if training.batch_by == "step" else "trajectories"
        each = f"{training.batch_size} {unit}"
        weights = f"{amount(trained(config, expert), COUNT)} " if expert else ""
        steps = f"{counted(training.optimizer_steps, 'optimizer step')} of {each}"
        if training.optimizer_steps == AUTO:
            steps = f"once through what is kept, in batches of {each}"
        return f"{steps}; {weights}trained parameters, by method {training.method}"
    if answers is None:
        return (
            "answers not known before benchmarks of the hub are read; evaluation.max_problems or "
            "evaluation.data_dir says how many"
        )
    tokens = answers * config.evaluation.max_new_tokens
    return f"at most {counted(answers, 'answer')}, {amount(tokens, COUNT)} tokens decoded"


def how_many(config: Config) -> tuple[int, bool]:
    """Problems to sample, and whether they were counted (of files and plugins), or are at most so many.

    Raises UserError for a source that cannot be read.
    """
    most, skip = config.sampling.max_problems, config.data.skip or 0
    check_source(config)
    source, name = open_source(config.data), config.data.source
    by_plugin = is_registered(name) and name.partition(":")[0] not in ENDLESS
    if not source.inputs and not by_plugin:
        return most, False
    try:
        return sum(1 for _ in itertools.islice(source.rows(), skip, skip + most)), True
    except StageError as error:
        raise UserError(f"data.source: {error}") from None


def answers(config: Config) -> int | None:
    """Answers that both models are asked for, at most; None when benchmarks of the hub say how many."""
    from lr_ray.evaluation.tasks import load_tasks, task_names

    asked, each = config.evaluation, 2 * config.evaluation.samples
    hub = asked.data_dir is None and any(map(find, asked.benchmarks))
    if not hub:
        return each * sum(len(task.rows) for task in load_tasks(asked))
    tasks = len(task_names(asked)) * (1 + len(asked.perturbations))
    return asked.max_problems and each * tasks * asked.max_problems


def warnings(config: Config, models: Models) -> list[str]:
    """A line for each length that cannot work."""
    said = []
    room = min((model.context for model in models.values() if model), default=math.inf)
    (field, tokens), served, expert = config.sampling.limit, config.serving, models["expert"]
    if tokens >= room:
        said.append(f"{field} = {tokens} leaves no room for a prompt in {room}")
    own = config.sampling.max_model_len
    if own and own > room:
        said.append(f"sampling.max_model_len = {own} exceeds the {room} tokens that are read")
    if expert and served.max_model_len > expert.context:
        said.append(
            f"serving.max_model_len = {served.max_model_len} exceeds the {expert.context} tokens "
            "that the expert reads"
        )
    return said


def amount(number: float, units: tuple[str, ...] = ("B", "kB", "MB", "GB", "TB")) -> str:
    """Three digits and a unit: 3.09 GB."""
    power = min(len(units) - 1, max(0, math.floor(math.log10(max(1, number)) / 3)))
    return f"{number / 1000**power:.3g} {units[power]}".rstrip()
