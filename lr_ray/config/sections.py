"""The sections of the config: every field with its bounds, default and meaning."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from lr_ray import plugins
from lr_ray.config.effects import on, setting
from lr_ray.config.resources import AUTO, auto_or
from lr_ray.config.section import Section
from lr_ray.config.typed import TYPED

if TYPE_CHECKING:
    Processes: TypeAlias = int | Literal["auto"]
    Concurrency: TypeAlias = int | Literal["auto"]
    Steps: TypeAlias = int  # training sees numbers only
else:
    Processes = auto_or(Annotated[int, Field(ge=1, le=1024)])
    Concurrency = auto_or(Annotated[int, Field(ge=1, le=4096)])
    Steps = auto_or(Annotated[int, Field(ge=1)])

CONTRAST, REJECTION = ("sampling.method", "contrast"), ("sampling.method", "rejection")
LORA = ("training.method", "lora")
PAPER, BOTH = ("evaluation.protocol", "paper"), ("evaluation.protocol", "both")

Dtype = Literal["float32", "bfloat16"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1), TYPED]


def _truth(value: Any) -> Any:
    """true and false as they are typed on the command line."""
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _of_templates(values: dict[str, Any]) -> dict[str, Any]:
    """Refuses what rendering a template is told by the stages."""
    ours = {"messages", "add_generation_prompt", "continue_final_message", "tokenize", "tools"}
    if taken := sorted(ours & values.keys()):
        raise ValueError(f"{', '.join(taken)}: is not free to be set")
    return values


Variables = Annotated[
    dict[str, Annotated[bool | int | str, BeforeValidator(_truth)]], AfterValidator(_of_templates)
]


class Models(Section):
    expert: str = setting(
        "trajectories", description="Directory, Hugging Face id, or embedded:expert."
    )
    amateur: str = setting(
        on("scores", CONTRAST), description="Directory, Hugging Face id, or embedded:amateur."
    )
    special_tokens_may_differ: bool = setting(
        on("scores", CONTRAST),
        default=False,
        description="Accept a pair whose special tokens (and no others) have different names.",
    )
    chat_template_kwargs: Variables = setting(
        "trajectories",
        "answers",
        default={},
        description="Variables of the expert's chat template, in sampling, evaluation and serving, such as "
        "enable_thinking: false of Qwen3.",
    )


class Fields(Section):
    problem: str = Field(default="problem", min_length=1, description="Field of the text.")
    id: str | None = Field(
        default=None, min_length=1, description="Field of the id; null makes ids of the texts."
    )
    answer: str | None = Field(
        default="answer",
        min_length=1,
        description="Field of the answer; null for none (None on the command line).",
    )


class Data(Section):
    source: str = setting(
        "trajectories",
        default="demo",
        min_length=1,
        description="demo, gsm8k, math or another benchmark, org/name[:config] of the Hugging Face "
        "hub, a path, URI or glob of .jsonl, .jsonl.gz or .parquet, or a plugin's source, NAME[:PARAMETER].",
    )
    split: str = setting(
        "trajectories",
        default="train",
        min_length=1,
        description="Split of a benchmark or hub data set.",
    )
    data_dir: str | None = setting(
        "trajectories",
        default=None,
        min_length=1,
        description="Folder with <benchmark>/<split>.jsonl; null takes benchmarks from the hub.",
    )
    fields: Fields = setting("trajectories", default=Fields())
    grader: str | None = setting(
        on("trajectories", REJECTION),
        default=None,
        min_length=1,
        description="How sampling.method rejection grades answers of files and plugins: math, choice, exact, "
        "number, a plugin's grader or module:object; null is math.",
    )
    shuffle: bool = setting(
        "trajectories",
        default=False,
        description="Take problems in an order by a hash of seed and id, which reads the whole "
        "source, and keeps up to twice sampling.max_problems of it on disk; demo is random already.",
    )
    seed: int = setting(
        "trajectories", default=0, ge=0, description="Seed of the demo's problems and the shuffle."
    )


class Pool(Section):
    min_engines: int = setting("speed", default=1, ge=1, le=1024, description="Engines, at least.")
    max_engines: Processes = setting(
        "speed",
        default=AUTO,
        description="Engines, at most; auto uses the GPUs there are, and min_engines on CPUs.",
    )
    dtype: Dtype = Field(default="bfloat16", description="Data type of weights and activations.")

    @property
    def most(self) -> int:
        """`max_engines`, or what `auto` is where no GPU is."""
        return self.min_engines if self.max_engines == AUTO else self.max_engines

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_engines > self.most:
            raise ValueError(f"min_engines = {self.min_engines} exceeds max_engines")
        return self


class Rejection(Section):
    samples: int = Field(default=4, ge=1, le=256, description="Solutions sampled for each problem.")
    temperature: float = Field(
        default=0.7,
        ge=0,
        le=2,
        description="Temperature of these samples; 0 is greedy, of one sample a problem.",
    )
    max_new_tokens: int | None = setting(
        on("trajectories", REJECTION, if_set=True),
        default=None,
        ge=1,
        le=32768,
        description="Tokens of a solution, at most; null is sampling.max_new_tokens.",
    )

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples = {self.samples} greedy solutions would be one and the same; give a temperature"
            )
        return self


class Sampling(Section):
    method: Literal["contrast", "rejection"] = setting(
        "trajectories",
        default="contrast",
        description="contrast: the amateur scores the expert's greedy steps. rejection (a baseline): "
        "the expert's sampled solutions with the right answer, all of their tokens; needs answers.",
    )
    selection: Annotated[str, AfterValidator(plugins.selections.check)] = setting(
        on("rows", CONTRAST),
        default="kl",
        description="Steps kept: those above kl_threshold (kl); as many at random, of all steps of a shard "
        "(random) or of each trajectory (random_within); all; or a plugin's rule.",
    )
    labels: Annotated[str, AfterValidator(plugins.labels.check)] = setting(
        on("rows", CONTRAST),
        default="contrast",
        description="Label of a kept step: p/q over the plausible tokens (contrast), the expert's p over "
        "them (expert), its greedy token (greedy), or a plugin's rule.",
    )
    engine: Annotated[str, AfterValidator(plugins.engines.check)] = setting(
        "trajectories",
        default="vllm",
        description="What runs both models: vllm, or a plugin's engine.",
    )
    max_problems: int = setting(
        "trajectories", default=1000, ge=1, description="Problems to solve, at most."
    )
    max_new_tokens: int = setting(
        "trajectories",
        default=128,
        ge=1,
        le=32768,
        description="Steps (generated tokens) of a trajectory, at most.",
    )
    system_prompt: str | None = setting(
        "trajectories", default=None, description="System turn of the prompt; null for none."
    )
    kl_threshold: float = setting(
        on("rows", CONTRAST),
        default=0.4,
        ge=0,
        le=100,
        description="Keep steps whose KL exceeds this, in nats (beta).",
    )
    plausibility: float = setting(
        on("trajectories", CONTRAST, if_less=True),
        on("rows", CONTRAST),
        default=0.2,
        gt=0,
        le=1,
        description="Tokens of a label have at least this share of the step's top probability (alpha).",
    )
    top_k: int = setting(
        on("trajectories", CONTRAST),
        default=256,
        ge=2,
        le=8192,
        description="Log-probabilities exchanged for each step, at most the whole vocabulary.",
    )
    batch_size: int = setting(
        "speed",
        default=64,
        ge=1,
        le=4096,
        description="Problems sent to an engine at once, and rows of a shard.",
    )
    max_rejected: Fraction = setting(
        "speed",
        default=0.05,
        description="Fraction of problems that may be rejected before the job fails.",
    )
    seed: int = setting(
        on("rows", CONTRAST),
        on("trajectories", REJECTION),
        default=0,
        ge=0,
        description="Seed of random steps and sampled solutions.",
    )
    rejection: Rejection = setting(on("trajectories", REJECTION), default=Rejection())
    expert: Pool = setting("trajectories", default=Pool())
    amateur: Pool = setting(on("scores", CONTRAST), default=Pool())

    @property
    def limit(self) -> tuple[str, int]:
        """The field that bounds a trajectory, or by method rejection a solution, and its tokens."""
        if self.method == "rejection" and self.rejection.max_new_tokens:
            return "sampling.rejection.max_new_tokens", self.rejection.max_new_tokens
        return "sampling.max_new_tokens", self.max_new_tokens

    @property
    def longest(self) -> int:
        """Tokens of a trajectory or solution, at most."""
        return self.limit[1]

    @model_validator(mode="after")
    def _fits_a_column(self) -> Self:
        values = self.batch_size * self.max_new_tokens * self.top_k
        if values >= 2**31:
            raise ValueError(
                f"batch_size * max_new_tokens * top_k = {values} log-probabilities are too many for "
                "one batch; keep them below 2147483648"
            )
        return self


class Lora(Section):
    rank: int = Field(default=8, ge=1, le=1024, description="Rank of the update.")
    alpha: float = Field(default=16, gt=0, description="Scale of the update, divided by the rank.")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout before the update.")
    targets: list[str] = Field(
        default=["q_proj", "v_proj"], min_length=1, description="Layers that get an update."
    )


class Training(Section):
    method: Literal["lora", "full"] = setting(
        "weights", default="lora", description="Weights that are trained: LoRA's, or all."
    )
    backend: Annotated[str, AfterValidator(plugins.backends.check)] = setting(
        "weights",
        default="deepspeed",
        description="What makes the optimizer steps: deepspeed, or a plugin's.",
    )
    optimizer_steps: Steps = setting(
        "weights",
        default=1000,
        description="Optimizer steps; auto goes once through the kept steps (or trajectories), the last "
        "batch filled up.",
    )
    batch_by: Literal["step", "trajectory"] = setting(
        "weights",
        default="step",
        description="What a batch is drawn from: kept steps, or trajectories with all of their kept steps.",
    )
    batch_size: int = setting(
        "weights",
        default=16,
        ge=1,
        le=65536,
        description="Kept steps (or trajectories) in a batch.",
    )
    learning_rate: float = setting(
        "weights", default=5e-5, gt=0, le=1, description="Peak learning rate."
    )
    warmup: Fraction = setting(
        "weights",
        default=0.0,
        description="Fraction of the optimizer steps in which the rate rises from 0.",
    )
    schedule: Literal["constant", "linear", "cosine"] = setting(
        "weights", default="linear", description="Learning rate after the warm-up."
    )
    max_grad_norm: float = setting(
        "weights", default=1.0, gt=0, description="Gradients are clipped to this norm."
    )
    weight_decay: float = setting(
        "weights", default=0.0, ge=0, le=1, description="AdamW weight decay."
    )
    seed: int = setting(
        "weights", default=0, ge=0, description="Seed of batches, LoRA weights and dropout."
    )
    dtype: Dtype = setting(
        "weights", default="bfloat16", description="Data type of the frozen weights."
    )
    lora: Lora = setting(on("weights", LORA), default=Lora())
    zero_stage: int = setting(
        "speed", default=2, ge=2, le=3, description="DeepSpeed ZeRO stage, 2 or 3."
    )
    num_workers: Processes = setting(
        "speed",
        default=AUTO,
        description="Data-parallel workers; auto takes the GPUs there are, with at least four of a "
        "batch's items each, and one on CPUs.",
    )
    min_workers: int | None = setting(
        "speed",
        default=None,
        ge=1,
        description="Workers to continue with when there is no room for num_workers; null waits for room.",
    )
    micro_batch_tokens: int = setting(
        "speed",
        default=8192,
        ge=1,
        description="Tokens of one forward pass, padding included, at most.",
    )
    gradient_checkpointing: bool = setting(
        "speed",
        default=False,
        description="Recompute activations in the backward pass instead of keeping them.",
    )
    checkpoint_every: int = setting(
        "speed", default=50, ge=1, description="Optimizer steps from one checkpoint to the next."
    )
    trackers: list[Literal["tensorboard", "mlflow", "wandb"]] = setting(
        "speed",
        default=["tensorboard"],
        description="Where metrics go beside metrics.jsonl; mlflow and wandb are configured by "
        "their own environment variables.",
    )

    @property
    def workers(self) -> int:
        """`num_workers`, or what `auto` is where no GPU is."""
        return 1 if self.num_workers == AUTO else self.num_workers

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        given = self.num_workers != AUTO
        if given and self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers = {self.min_workers} exceeds num_workers")
        return self


class Serving(Section):
    host: str = setting("speed", default="127.0.0.1", min_length=1, description="Address to bind.")
    port: int = setting("speed", default=8000, ge=1, le=65535, description="Port to bind.")
    min_replicas: Processes = setting(
        "speed",
        default=AUTO,
        description="Replicas of each model, at least; auto is one, and in an evaluation of a run as "
        "many as the GPUs have room for.",
    )
    max_replicas: int | None = setting(
        "speed",
        default=None,
        ge=1,
        le=1024,
        description="Replicas of each model under load, at most; null stays at min_replicas.",
    )
    replica_requests: int = setting(
        "speed",
        default=64,
        ge=1,
        le=4096,
        description="Requests under way in a replica beyond which another replica is started.",
    )
    dtype: Dtype = setting(
        "answers", default="bfloat16", description="Data type of weights and activations."
    )
    max_model_len: int = setting(
        "answers", default=4096, ge=16, description="Tokens of prompt and answer."
    )
    max_requests: int = setting(
        "speed",
        default=1024,
        ge=1,
        le=65536,
        description="Requests under way at once; more are answered 429, to be tried again.",
    )
    drain_s: float = setting(
        "speed",
        default=60.0,
        ge=0,
        le=3600,
        description="Seconds that requests under way get to finish when the endpoint ends.",
    )

    @property
    def replicas(self) -> int:
        """`min_replicas`, or what `auto` is for an endpoint of any models."""
        return 1 if self.min_replicas == AUTO else self.min_replicas

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_replicas is not None and self.replicas > self.max_replicas:
            raise ValueError(f"min_replicas = {self.min_replicas} exceeds max_replicas")
        return self


class PaperProtocol(Section):
    expert_prompt: Literal["auto", "completion", "chat"] = Field(
        default="auto",
        description="How the expert is asked: completion, for a base model (Question: ... Answer: ), or "
        "chat; auto is chat where the expert's answers end with what ends a turn of its chat template.",
    )
    stop_token_ids: list[Annotated[int, Field(ge=0)]] = Field(
        default=[],
        description="Token ids that end an answer, whatever generation_config.json says; none given takes "
        "those that end a turn and a text for the expert's tokenizer: Qwen2.5's 151645 and 151643.",
    )


class Evaluation(Section):
    protocol: Literal["same", "paper", "both"] = setting(
        "answers",
        default="same",
        description="same: all models under one prompt, set here. paper: as the paper asked, whatever shots, "
        "system_prompt and stop are. both: each, and what the prompt alone moves.",
    )
    paper: PaperProtocol = setting(
        on("answers", PAPER), on("answers", BOTH), default=PaperProtocol()
    )
    benchmarks: list[str] = setting(
        "answers",
        default=["demo"],
        min_length=1,
        description="demo, gsm8k, math and the other benchmarks, paths of .jsonl or .parquet with "
        "answers, or a plugin's sources, NAME[:PARAMETER].",
    )
    data_dir: str | None = setting(
        "answers",
        default=None,
        min_length=1,
        description="Folder with <benchmark>/test.jsonl; null takes benchmarks from the hub.",
    )
    fields: Fields = setting("answers", default=Fields())
    grader: str | None = setting(
        "answers",
        default=None,
        min_length=1,
        description="How answers of files and plugins are graded: math, choice, exact, number, a plugin's "
        "grader or module:object; null takes the rows' field grader, else math.",
    )
    grader_check: list[Literal["math_verify", "toolkit"]] = setting(
        "answers",
        default=[],
        description="Other graders to compare ours with, on math: math_verify alone, and the number and "
        "string rules of the Qwen2.5-Math toolkit.",
    )
    max_problems: int | None = setting(
        "answers",
        default=None,
        ge=1,
        description="Problems of each benchmark, drawn by a hash of seed and id; null takes all.",
    )
    max_new_tokens: int = setting(
        "answers", default=2048, ge=1, le=32768, description="Tokens of an answer, at most."
    )
    system_prompt: str | None = setting(
        "answers", default=None, description="System turn of the prompt; null for none."
    )
    shots: list[Annotated[int, Field(ge=0, le=8)]] = setting(
        "answers",
        default=[0],
        min_length=1,
        description="Worked examples before each problem; with several numbers, each is reported.",
    )
    prefill: str | None = setting(
        "answers",
        default=None,
        min_length=1,
        description="Text that each answer begins with; our endpoint and vLLM's support it.",
    )
    stop: list[Text] = setting(
        "answers",
        default=[],
        max_length=4,
        description="Texts that end an answer, whatever the model: one each time the option is "
        "given, or a JSON list of them.",
    )
    samples: int = setting(
        "answers", default=1, ge=1, le=1024, description="Answers sampled for each problem."
    )
    temperature: float = setting(
        "answers",
        default=0.0,
        ge=0,
        le=2,
        description="Temperature; 0 is greedy, several samples need more.",
    )
    concurrency: Concurrency = setting(
        "speed",
        default=AUTO,
        description="Requests under way at once; auto is 256 a replica on GPUs, else 64.",
    )
    timeout_s: float = setting(
        "speed",
        default=600.0,
        gt=0,
        le=86400,
        description="Seconds a request may take before it is retried.",
    )
    seed: int = setting(
        "answers",
        default=0,
        ge=0,
        description="Seed of the demo's problems, subsets, samples and the bootstrap.",
    )

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
        if self.prefill is not None and self.protocol != "same":
            raise ValueError(
                f"prefill = {self.prefill!r}: protocol paper begins no answer; leave it out, or give "
                "protocol same"
            )
        return self
