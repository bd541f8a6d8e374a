"""What requirements/*.txt pin, and whether installed packages' own requirements hold for it on a given Python."""

from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13")  # those that the Makefile takes


def pins(device: str) -> dict[str, Requirement]:
    """By normalized name."""
    lines = (ROOT / f"requirements/{device}.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


@cache
def requirements_of(site_packages: Path) -> dict[str, list[Requirement]]:
    """Of each installed package, by its normalized name."""
    return {
        canonicalize_name(found.name): [Requirement(line) for line in found.requires or []]
        for found in metadata.distributions(path=[str(site_packages)])
    }


def unmet(device: str, site_packages: Path, python: str) -> list[str]:
    """Requirements that the lock breaks on that Python, read from where the lock is installed."""
    locked, broken = pins(device), []
    never = dropped() if device == "cpu" else set()
    installed = requirements_of(site_packages)
    todo = [("lr-ray", device), ("lr-ray", "dev"), *((name, "") for name in locked)]
    seen = set(todo)
    while todo:
        name, extra = todo.pop()
        environment = {
            "python_version": python,
            "python_full_version": f"{python}.1",
            "extra": extra,
        }
        for requirement in installed[name]:
            wanted = canonicalize_name(requirement.name)
            if requirement.marker and not requirement.marker.evaluate(environment):
                continue
            if wanted in never:
                continue
            if wanted not in locked:
                broken.append(f"{name} asks for {requirement}, which the lock lacks")
                continue
            (pin,) = locked[wanted].specifier
            if not requirement.specifier.contains(pin.version, prereleases=True):
                broken.append(f"{name} asks for {requirement}, the lock has {pin.version}")
            for new in ((wanted, option) for option in requirement.extras):
                if new not in seen:
                    seen.add(new)
                    todo.append(new)
    return broken


def dropped() -> set[str]:
    """Packages that the CPU lock leaves out on purpose."""
    lines = (ROOT / "requirements/overrides.txt").read_text().splitlines()
    return {canonicalize_name(line.split(";")[0]) for line in lines if '"never"' in line}
