"""Section `evaluation`: what both models are asked, and how."""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from lr_ray.config.effects import On, setting
from lr_ray.config.resources import AUTO, AutoOr
from lr_ray.config.section import Section
from lr_ray.config.sections.common import Fields
from lr_ray.config.typed import TYPED

PAPER, BOTH = ("evaluation.protocol", "paper"), ("evaluation.protocol", "both")

Perturbation: TypeAlias = Literal[
    "irrelevant", "names", "units", "typos", "shuffled", "preamble", "capitals"
]
Text = Annotated[str, Field(min_length=1), TYPED]


class PaperProtocol(Section):
    expert_prompt: Literal["auto", "completion", "chat"] = "auto"
    """How the expert is asked: completion, for a base model (Question: ... Answer: ), or chat; auto is chat
    where the expert's answers end with what ends a turn of its chat template."""
    stop_token_ids: list[Annotated[int, Field(ge=0)]] = Field(default=[])
    """Token ids that end an answer, whatever generation_config.json says; none given takes those that end a
    turn and a text for the expert's tokenizer: Qwen2.5's 151645 and 151643."""


class Evaluation(Section):
    protocol: Literal["same", "paper", "both"] = setting("answers", default="same")
    """same: all models under one prompt, set here. paper: as the paper asked, whatever shots, system_prompt
    and stop are. both: each, and what the prompt alone moves."""
    paper: PaperProtocol = setting(
        On("answers", PAPER), On("answers", BOTH), default=PaperProtocol()
    )
    benchmarks: list[str] = setting("answers", default=["demo"], min_length=1)
    """demo, gsm8k, math and the other benchmarks, mmlu_stem:SUBJECT+SUBJECT, reasoning_gym:GENERATOR, paths
    of .jsonl or .parquet with answers, or a plugin's sources, NAME[:PARAMETER]."""
    data_dir: str | None = setting("answers", default=None, min_length=1)
    """Folder with <benchmark>/test.jsonl; null takes benchmarks from the hub."""
    fields: Fields = setting("answers", default=Fields())
    grader: str | None = setting("answers", default=None, min_length=1)
    """How answers of files and plugins are graded: math, choice, exact, number, a plugin's grader or
    module:object; null takes the rows' field grader, else math."""
    grader_check: list[Literal["math_verify", "toolkit"]] = setting("answers", default=[])
    """Other graders to compare ours with, on math: math_verify alone, and the number and string rules of the
    Qwen2.5-Math toolkit."""
    perturbations: list[Perturbation] = setting(On("answers", if_set=True), default=[])
    """Variants of each problem, asked beside it, whose right answer stays: irrelevant (a sentence), names,
    units, typos, shuffled (sentences), preamble, capitals."""
    max_problems: int | None = setting("answers", default=None, ge=1, le=1_000_000)
    """Problems of each benchmark, drawn by a hash of seed and id; null takes all."""
    max_new_tokens: int = setting("answers", default=2048, ge=1, le=32768)
    """Tokens of an answer, at most."""
    system_prompt: str | None = setting("answers", default=None)
    """System turn of the prompt; null for none."""
    shots: list[Annotated[int, Field(ge=0, le=8)]] = setting("answers", default=[0], min_length=1)
    """Worked examples before each problem; with several numbers, each is reported."""
    prefill: str | None = setting("answers", default=None, min_length=1)
    """Text that each answer begins with; our endpoint and vLLM's support it."""
    stop: list[Text] = setting("answers", default=[], max_length=4)
    """Texts that end an answer, whatever the model: one each time the option is given, or a JSON list of
    them."""
    samples: int = setting("answers", default=1, ge=1, le=1024)
    """Answers sampled for each problem."""
    temperature: float = setting("answers", default=0.0, ge=0, le=2)
    """Temperature; 0 is greedy, several samples need more."""
    drift: int | None = setting("speed", default=None, ge=1, le=1_000_000)
    """Tokens of each model's answers, at most, that figures of drift are made of; they change no answer, and
    are left out at an endpoint, which shows no weights. null makes none."""
    concurrency: AutoOr[Annotated[int, Field(ge=1, le=4096)]] = setting("speed", default=AUTO)
    """Requests under way at once; auto is 256 a replica on GPUs, else 64."""
    timeout_s: float = setting("speed", default=600.0, gt=0, le=86400)
    """Seconds a request may take before it is retried."""
    seed: int = setting("answers", default=0, ge=0)
    """Seed of the demo's problems, subsets, perturbations, samples and the bootstrap."""

    @property
    def at_once(self) -> int:
        """`concurrency`, or what `auto` is where no GPU is."""
        return 64 if self.concurrency == AUTO else self.concurrency

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples = {self.samples} greedy answers would be one and the same; give a temperature"
            )
        if len(set(self.shots)) < len(self.shots):
            raise ValueError(f"shots = {self.shots} has a number twice")
        if len(set(self.perturbations)) < len(self.perturbations):
            raise ValueError(f"perturbations = {self.perturbations} has one twice")
        if self.prefill is not None and self.protocol != "same":
            raise ValueError(
                f"prefill = {self.prefill!r}: protocol paper begins no answer; leave it out, or give "
                "protocol same"
            )
        return self
