"""The locks: complete for each Python that the Makefile takes, and each with its own build of torch."""

import re
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from lr_ray.engines.vllm import on_cpu
from tests.unit.locks import PYTHONS, ROOT, pins, requirements_of, unmet

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("python", PYTHONS)
def test_the_installed_lock_is_complete_on_each_python(python):
    site_packages = Path(sysconfig.get_paths()["purelib"])
    assert unmet("cpu" if on_cpu() else "gpu", site_packages, python) == []


def test_a_build_of_torch_for_cpus_is_not_what_the_gpu_lock_pins():
    """By PEP 440 `==2.13.0` is satisfied by 2.13.0+cpu, which pip prefers where it finds one."""
    torch = pins("gpu")["torch"]
    (base,) = (Requirement(line) for line in PROJECT["dependencies"] if line.startswith("torch="))
    (version,) = (pin.version for pin in base.specifier)
    assert base.specifier.contains(f"{version}+cpu")
    assert torch.specifier.contains(version)
    assert not torch.specifier.contains(f"{version}+cpu")
    assert pins("cpu")["torch"].specifier.contains(f"{version}+cpu")
    assert not pins("cpu")["torch"].specifier.contains(version)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_locks_hold_the_versions_of_pyproject(device):
    extras = PROJECT["optional-dependencies"]
    locked = pins(device)
    for line in [*PROJECT["dependencies"], *extras["dev"], *extras[device]]:
        wanted = Requirement(line)
        (pin,) = locked[canonicalize_name(wanted.name)].specifier
        assert wanted.specifier.contains(pin.version), line


@pytest.mark.parametrize("device", ["cpu", "gpu", "domains"])
def test_locks_name_no_address(device):
    text = (ROOT / f"requirements/{device}.txt").read_text()
    assert not re.search(r"://|^-|@", text, re.MULTILINE)


def test_the_makefile_takes_the_pythons_of_pyproject():
    low, high = re.findall(r"\((3), (\d+)\)", (ROOT / "Makefile").read_text())[:2]
    wanted = Requirement(f"python{PROJECT['requires-python']}").specifier
    for minor in range(9, 16):
        taken = int(low[1]) <= minor < int(high[1])
        assert wanted.contains(Version(f"3.{minor}.1")) == taken == (f"3.{minor}" in PYTHONS)


def test_the_extra_of_domains_changes_no_locked_version():
    """What its packages ask for is pinned beside them, or locked at a version that they accept."""
    locked, beside = pins("cpu"), pins("domains")
    assert not locked.keys() & beside.keys()
    [extra] = PROJECT["optional-dependencies"]["domains"]
    assert str(beside["reasoning-gym"]) == extra
    installed = requirements_of(Path(sysconfig.get_paths()["purelib"]))
    if beside.keys() - installed.keys():
        pytest.skip("requirements/domains.txt is not installed; make test brings it")
    both = locked | beside
    for requirement in [r for name in beside for r in installed[name]]:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        (pin,) = both[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), requirement
