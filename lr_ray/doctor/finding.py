"""What a run needs, what was found, and the wording of both."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lr_ray.doctor.facts import Facts, Folder

Level = Literal["ok", "warn", "bad"]
_SHOWN = 5


@dataclass(frozen=True)
class Need:
    """What somebody wants to run. `gpu` None: whatever the installed vLLM is built for.

    `stages` are of the pipeline, or `serving`; `to_float32` are the options that take them out of bfloat16,
    by sections of `resources`, `cpu_engines` the settings that give some of them no GPU. Bytes are what a run
    would write: into its directory (None: only whether it can write there is checked, as a run reports a full
    disk itself), and into the hub's cache.
    """

    gpu: bool | None = None
    stages: tuple[str, ...] = ("sampling", "training", "evaluation")
    to_float32: Mapping[str, str] = field(default_factory=dict)
    cpu_engines: tuple[str, ...] = ()
    run_bytes: float | None = 0
    hub_bytes: float = 0

    def on_gpu(self, facts: Facts) -> bool:
        """Whether engines are to run on this node's GPUs; never on a cluster's node without one."""
        if facts.joins and not facts.seen.gpus:
            return False
        return "vllm" in facts.engines if self.gpu is None else self.gpu

    @property
    def engines(self) -> bool:
        """Whether vLLM's engines are among it."""
        return any(stage != "training" for stage in self.stages)


@dataclass(frozen=True)
class Finding:
    """`bad` stops a run. `advice` is empty where there is nothing to do."""

    level: Level
    label: str
    what: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.label}: {self.what}" + (f"; {self.advice}" if self.advice else "")


Findings = Iterator[Finding]


def room(label: str, folder: Folder, wanted: float, advice: str, level: Level = "bad") -> Findings:
    """Whether a folder can be written, and has so many bytes free; `level` where not."""
    if folder.refuses:
        what = f"{folder.path} cannot be written: {folder.refuses}"
        yield Finding(level, label, what, advice)
    elif folder.free < wanted:
        what = f"{folder.path} has {gb(folder.free)} free, and {gb(wanted)} are needed"
        yield Finding(level, label, what, advice)
    else:
        used = f", of which {gb(wanted)} may be used" if wanted >= 1e9 else ""
        yield Finding("ok", label, f"{folder.path}, {gb(folder.free)} free{used}")


def listed(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
