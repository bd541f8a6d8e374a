"""The site builds without a warning, and what README and docs name is there."""

import html
import importlib.util
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from markdown.extensions.toc import slugify

from lr_ray.cli.front import COMMANDS, run_command
from lr_ray.config import (
    Config,
    EndpointConfig,
    ServeConfig,
    merge,
    preset_names,
    read_tree,
    resolve,
)
from lr_ray.config.section import Section
from lr_ray.problems import PROBLEM
from lr_ray.run import schemas

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
BESIDE = [*PAGES, ROOT / "cluster" / "README.md"]


def names(kind: type[Section], prefix: str = "") -> list[str]:
    """Dotted names of a section's fields and subsections."""
    found = []
    for name, field in kind.model_fields.items():
        found.append(f"{prefix}{name}")
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found += names(field.annotation, f"{prefix}{name}.")
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed; make install brings it")
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(out),
    ]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_configuration_page_has_every_field(site):
    page = (site / "configuration" / "index.html").read_text()
    leaves = [n for n in names(Config) if not any(m.startswith(f"{n}.") for m in names(Config))]
    assert len(leaves) > 80
    assert [name for name in leaves if f"<code>{name}</code>" not in page] == []
    cells = r"<td><code>([\w.]+)</code></td>\s*" + 2 * r"<td>.*?</td>\s*" + r"<td>(.*?)</td>"
    affects = dict(re.findall(cells, page, re.DOTALL))
    assert [name for name in leaves if not affects[name]] == []
    assert affects["training.lora.rank"] == "weights"  # by its section's mark


def test_the_formats_page_has_every_column(site):
    page = (site / "run-directory" / "index.html").read_text()
    written = (PROBLEM, schemas.SUPERVISION, schemas.SCORES, schemas.TRAJECTORY, schemas.REJECTED)
    columns = {name for schema in written for name in schema.names}
    assert [name for name in columns if f"<td><code>{name}</code></td>" not in page] == []


def test_the_notebook_is_a_page_with_what_its_code_printed(site):
    page = (site / "notebook" / "index.html").read_text()
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in code)
    assert {out.get("name", "stdout") for cell in code for out in cell["outputs"]} == {"stdout"}
    for cell in code:
        last = "".join(cell["outputs"][-1]["text"]).splitlines()[-1]
        assert html.escape(last, quote=False).strip() in re.sub(r"<[^>]+>", "", page)


def test_formulas_are_shown_without_a_script_and_nothing_is_loaded_from_elsewhere(site):
    method = (site / "method" / "index.html").read_text()
    assert method.count("<math") > 10
    assert "arithmatex" not in method
    for page in site.rglob("*.html"):
        loaded = r"""(?:\bsrc=|<link[^>]+href=)["']?((?:https?:)?//[^"'> ]+)"""
        assert re.findall(loaded, page.read_text()) == [], page
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text()) == [], sheet


@pytest.mark.parametrize("page", BESIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings_that_are_there(page):
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = page.parent / name if name else page
        if name in ("cluster-files.md", "changelog.md", "notebook.md") and page in DOCS:
            continue  # made by docs/hooks.py, and checked by the strict build
        if not target.exists() or (anchor and anchor not in headings(target)):
            missing.append(link)
    assert missing == []


def headings(page: Path) -> set[str]:
    """The anchors of a page."""
    lines = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ +(.+)$", lines, re.MULTILINE)
    return {slugify(re.sub(r"[`*]", "", title), "-") for title in titles}


def test_yaml_of_the_docs_is_a_config():
    blocks = [
        block
        for page in DOCS
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    assert blocks
    for block in blocks:
        assert resolve(yaml.safe_load(block)).models.expert


def test_the_configuration_page_names_every_preset():
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert [name for name in preset_names() if f"`{name}`" not in page] == []


def test_fields_that_are_named_are_there():
    known = {*names(Config), *names(EndpointConfig), *names(ServeConfig)}
    sections = "|".join({name.partition(".")[0] for name in known if "." in name})
    unknown = [
        f"{page.name}: {name}"
        for page in BESIDE
        for name in re.findall(rf"(?:--|`)((?:{sections})\.[\w.]*\w)(?=[` ,=\n])", page.read_text())
        if name not in known and not name.endswith(".py")
    ]
    assert unknown == []


def test_commands_are_those_of_the_page_of_commands():
    listed = (ROOT / "docs" / "commands.md").read_text()
    named = {
        name
        for page in BESIDE
        for name in re.findall(
            r"^ {4}lr-ray +([a-z]+)|`lr-ray ([a-z]+)", page.read_text(), re.MULTILINE
        )
        for name in name
        if name
    }
    assert named <= set(COMMANDS)
    assert [name for name in COMMANDS if f"`lr-ray {name}`" not in listed] == []


def test_commands_of_the_docs_have_the_options_that_they_use(capsys):
    options: dict[str, list[str]] = {}
    unknown = []
    for page in BESIDE:
        text = page.read_text().replace("\\\n", " ")
        for command in re.findall(
            r"^ {4}lr-ray ([a-z].*)|`lr-ray ([a-z][^`]*)`", text, re.MULTILINE
        ):
            name, *words = shlex.split(command[0] or command[1], comments=True)
            if name not in options:
                if run_command([name, "--help-all"]):
                    run_command([name, "--help"])  # a command without settings
                options[name] = re.findall(r"--[\w.-]+", capsys.readouterr().out)
            unknown += [
                f"{page.name}: {name} {w}"
                for w in words
                if w[:2] == "--" and w not in options[name]
            ]
    assert set(options) >= {"run", "train", "label", "serve", "grade"}
    assert unknown == []


def test_no_command_of_the_docs_asks_a_finished_run_for_something_else():
    """`make demo` has made runs/demo, which is what --config demo means where no --run is given."""
    effects = ("trajectories", "scores", "rows", "weights", "answers")
    tree = merge(read_tree("demo"), {"evaluation": {"perturbations": ["typos"]}})
    settled = set(resolve(tree).inputs(*effects))
    refused, looked_at = [], 0
    for page in BESIDE:
        text = page.read_text().replace("\\\n", " ")
        for command in re.findall(
            r"^(?: {4})?lr-ray ((?:run|sample|train|evaluate) .*)", text, re.MULTILINE
        ):
            words = shlex.split(command, comments=True)
            given = {a: b for a, b in itertools.pairwise(words) if a.startswith("--")}
            run = given.get("--run", f"runs/{given.get('--config')}")
            made = run == "runs/demo" or (run == "runs/mine" and words[0] == "evaluate")
            looked_at += made
            changed = {name.removeprefix("--") for name in given} & settled
            refused += (
                [f"{page.name}: {command}"] if made and changed and "--yes" not in words else []
            )
    assert looked_at > 0
    assert refused == []


def test_the_readme_lists_every_command():
    listed = (ROOT / "README.md").read_text().split("lists the commands:")[1].split(".")[0]
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(COMMANDS)
