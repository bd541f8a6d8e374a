"""What a run is asked to do: one pydantic tree, read from a YAML preset or file plus dotted overrides.

Importing this module loads neither torch nor ray nor vllm, so that `--help` and usage errors are
immediate. `python jobs/full_pipeline.py --help` lists every field.
"""

import difflib
import hashlib
import json
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lr_ray.errors import UserError

Dtype = Literal["float32", "bfloat16"]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _whole_or_shared(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError("must be a fraction of one GPU or a whole number of them")
    return gpus


Gpus = Annotated[float, Field(ge=0, le=64), AfterValidator(_whole_or_shared)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class Models(Section):
    expert: str = Field(description="Directory, Hugging Face id, or embedded:expert.")
    amateur: str = Field(description="Directory, Hugging Face id, or embedded:amateur.")
    special_tokens_may_differ: bool = Field(
        default=False,
        description="Accept a pair whose special tokens (not the others) have different names.",
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
    source: str = Field(
        default="demo",
        min_length=1,
        description="demo, gsm8k, math or another benchmark, org/name[:config] of the Hugging Face "
        "hub, or a path, URI or glob of .jsonl, .jsonl.gz or .parquet.",
    )
    split: str = Field(
        default="train", min_length=1, description="Split of a benchmark or hub data set."
    )
    data_dir: str | None = Field(
        default=None,
        min_length=1,
        description="Folder with <benchmark>/<split>.jsonl; null takes benchmarks from the hub.",
    )
    fields: Fields = Fields()
    shuffle: bool = Field(
        default=False,
        description="Take problems in an order by a hash of seed and id, which reads the whole "
        "source, and keeps up to twice sampling.max_problems of it on disk; demo is random already.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the demo's problems and the shuffle.")


class Pool(Section):
    min_engines: int = Field(default=1, ge=1, le=1024, description="Engines kept at least.")
    max_engines: int = Field(default=1, ge=1, le=1024, description="Engines grown to at most.")
    gpus: Gpus = Field(
        default=1,
        description="GPUs of an engine: 0 is CPU only, a fraction shares one, 2 or more split the model.",
    )
    cpus: float = Field(default=1, ge=0, le=256, description="CPUs Ray reserves for an engine.")
    dtype: Dtype = Field(default="bfloat16", description="Data type of weights and activations.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_engines > self.max_engines:
            raise ValueError(f"min_engines = {self.min_engines} exceeds max_engines")
        return self


class Sampling(Section):
    max_problems: int = Field(default=1000, ge=1, description="Problems to solve, at most.")
    max_new_tokens: int = Field(default=128, ge=1, le=32768, description="Steps a trajectory.")
    system_prompt: str | None = Field(default=None, description="System turn of the prompt.")
    kl_threshold: float = Field(
        default=0.4, ge=0, le=100, description="Keep steps whose KL exceeds this, in nats (beta)."
    )
    plausibility: float = Field(
        default=0.2, gt=0, le=1, description="Share of the top probability a label needs (alpha)."
    )
    top_k: int = Field(
        default=256, ge=2, le=8192, description="Log-probabilities exchanged a step (at most V)."
    )
    batch_size: int = Field(default=64, ge=1, le=4096, description="Problems sent to an engine.")
    max_rejected: Fraction = Field(
        default=0.05, description="Fraction of problems that may be rejected before the job fails."
    )
    expert: Pool = Pool()
    amateur: Pool = Pool()

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
    optimizer_steps: int = Field(default=1000, ge=1, description="Optimizer steps.")
    batch_steps: int = Field(default=16, ge=1, le=65536, description="Kept steps a batch.")
    learning_rate: float = Field(default=5e-5, gt=0, le=1, description="Peak learning rate.")
    warmup: Fraction = Field(default=0.0, description="Fraction of steps with a rising rate.")
    schedule: Literal["constant", "linear"] = Field(
        default="linear", description="Learning rate after the warm-up."
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradient norm clipped to this.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="AdamW weight decay.")
    seed: int = Field(default=0, ge=0, description="Seed of batches, LoRA weights and dropout.")
    dtype: Dtype = Field(default="bfloat16", description="Data type of the frozen weights.")
    zero_stage: Literal[2] = Field(default=2, description="DeepSpeed ZeRO stage.")
    num_workers: int = Field(default=1, ge=1, le=1024, description="Data-parallel workers.")
    gpus_per_worker: float = Field(default=1, ge=0, le=1, description="0 is CPU only.")
    cpus_per_worker: float = Field(default=1, gt=0, le=256, description="CPUs a worker takes.")
    micro_batch_tokens: int = Field(
        default=8192, ge=1, description="Tokens of one forward, padding included, at most."
    )
    lora: Lora = Lora()


class Serving(Section):
    host: str = Field(default="127.0.0.1", description="Address to bind.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port to bind.")
    replicas: int = Field(default=1, ge=1, le=1024, description="Replicas of each model.")
    gpus: Gpus = Field(
        default=1,
        description="GPUs of a replica: 0 is CPU only, a fraction shares one, 2 or more split the model.",
    )
    cpus: float = Field(default=1, gt=0, le=256, description="CPUs a replica takes.")
    dtype: Dtype = Field(default="bfloat16", description="Data type of weights and activations.")
    max_model_len: int = Field(default=4096, ge=16, description="Tokens of prompt and answer.")


class Evaluation(Section):
    benchmarks: list[str] = Field(default=["demo"], min_length=1, description="Benchmark names.")
    data_dir: str | None = Field(default=None, description="Folder that holds the benchmarks.")
    max_problems: int | None = Field(default=None, ge=1, description="Problems a benchmark.")
    max_new_tokens: int = Field(default=2048, ge=1, le=32768, description="Tokens an answer.")
    system_prompt: str | None = Field(default=None, description="System turn of the prompt.")
    concurrency: int = Field(default=64, ge=1, le=4096, description="Requests under way at once.")
    seed: int = Field(default=0, ge=0, description="Seed of generated problems and the bootstrap.")


class Config(Section):
    models: Models
    data: Data = Data()
    sampling: Sampling = Sampling()
    training: Training = Training()
    serving: Serving = Serving()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.sampling.amateur.gpus > 1:
            raise ValueError("sampling.amateur.gpus must be at most 1: the scorer is not split")
        if self.evaluation.max_new_tokens >= self.serving.max_model_len:
            raise ValueError(
                f"evaluation.max_new_tokens = {self.evaluation.max_new_tokens} leaves no room for a "
                f"prompt in serving.max_model_len = {self.serving.max_model_len}"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Dotted name to value of every field that can change a result."""
        flat = _flatten(self.model_dump(mode="json"))
        return {name: value for name, value in flat.items() if not _EXECUTION.search(name)}

    def digest(self) -> str:
        """sha256 (hex, first 16) of `identity`: equal runs have equal digests."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Dotted names of `identity` fields whose value in the dumped tree `other` is another."""
        there = _flatten(other)
        return [name for name, value in self.identity().items() if there.get(name) != value]


# Where and how fast, but not what: a run may go on with other values of these.
_EXECUTION = re.compile(
    r"^serving\.(host|port|replicas)$|^evaluation\.concurrency$|^sampling\.(batch_size|max_rejected)$"
    r"|^training\.micro_batch_tokens$|\.(min_engines|max_engines|gpus|cpus)$|_per_worker$"
)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def preset_names() -> list[str]:
    files = resources.files("lr_ray").joinpath("presets").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def read_tree(name_or_path: str) -> dict[str, Any]:
    """The raw tree of a preset or YAML file. Raises UserError when there is no such thing."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        try:
            text = path.read_text()
        except OSError as error:
            raise UserError(f"--config {name_or_path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise UserError(f"--config {name_or_path}: not UTF-8 text") from None
    elif name_or_path in preset_names():
        preset = resources.files("lr_ray").joinpath("presets", f"{name_or_path}.yaml")
        text = preset.read_text()
    else:
        raise UserError(
            f"--config {name_or_path}: no such preset; give a .yaml file or one of "
            + ", ".join(preset_names())
        )
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise UserError(f"--config {name_or_path}: not valid YAML: {where}") from None
    if not isinstance(tree, dict):
        raise UserError(f"--config {name_or_path}: must be a mapping of sections")
    return tree


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, section by section."""
    out = dict(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merge(out[key], value) if nested else value
    return out


def resolve(tree: dict[str, Any]) -> Config:
    """The checked config. Raises UserError with one line that names each wrong field."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError("; ".join(_explain(e) for e in error.errors())) from None


def _explain(error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    name = ".".join(path)
    if error["type"] == "extra_forbidden":
        known = _keys_at(path[:-1])
        close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {'.'.join([*path[:-1], close[0]])}?" if close else ", ".join(known)
        return f"config: unknown key {name}; {hint if close else 'known here: ' + hint}"
    if error["type"] == "missing":
        return f"config: {name} is missing"
    if error["type"] == "value_error":
        return f"config: {name + ': ' if name else ''}{error['ctx']['error']}"
    return f"config: {name} = {error['input']!r}: {error['msg']}"


def _keys_at(path: list[str]) -> list[str]:
    model: Any = Config
    for part in path:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
