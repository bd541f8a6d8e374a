"""The wheel alone, in an empty folder: its files, and the commands that start nothing."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of a copy, so that nothing an earlier build left here gets in."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lr_ray", source / "lr_ray", ignore=ignored)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(out)]
    command = [sys.executable, "-m", "pip", "wheel", "-qq", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=source)
    assert done.returncode == 0, done.stderr
    [file] = out.glob("lr_ray-*.whl")
    return file


@pytest.fixture
def alone(wheel, tmp_path):
    """Runs Python in an empty folder, with what is in the wheel before everything else."""
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", *arguments],
            cwd=here,
            env=os.environ | {"PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    code = "import lr_ray; print(lr_ray.__file__)"
    assert run("-c", code) == f"{site}/lr_ray/__init__.py\n"  # and not the checkout's
    return run


def test_every_file_of_the_package_is_inside(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    there = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "lr_ray").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {
        "lr_ray/py.typed",
        "lr_ray/report/page/layout.html.j2",
        "lr_ray/presets/demo.yaml",
    } <= there
    assert {name for name in inside if name.startswith("lr_ray/")} == there
    tops = {name.split("/")[0] for name in inside} - {"lr_ray"}
    assert [top for top in tops if not re.fullmatch(r"lr_ray-[\d.]+\.dist-info", top)] == []


def test_lr_ray_is_a_program_of_the_wheel(wheel):
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert "lr-ray = lr_ray.cli.front:main" in archive.read(name).decode()


def test_help_and_plan_need_no_checkout(alone):
    assert "usage: lr-ray COMMAND" in alone("-m", "lr_ray", "--help")
    plan = alone("-m", "lr_ray", "plan", "--config", "demo")
    assert "538 thousand parameters, reads 512 tokens" in plan
    assert "does not fit" not in plan


def test_presets_template_and_embedded_pair_are_found(alone):
    code = """
import jinja2
from lr_ray.config import preset_names
from lr_ray.embedded import expert_path

print(preset_names())
print(jinja2.PackageLoader("lr_ray.report.page", "").list_templates())
print((expert_path() / "model.safetensors").stat().st_size)
"""
    presets, templates, size = alone("-c", code).splitlines()
    assert "'demo'" in presets
    assert "layout.html.j2" in templates
    assert int(size) > 1e6
