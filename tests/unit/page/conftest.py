"""A page of a made-up run, made once, and a browser for those who need one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lr_ray.report.page import PAGE, write_page
from lr_ray.run.store import Run
from tests.browser import CHROMIUM, Page, browser
from tests.made_up import made_up


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> tuple[Run, dict]:
    run = Run(str(tmp_path_factory.mktemp("made-up")))
    summary = made_up(run)
    write_page(run, summary)
    return run, summary


@pytest.fixture(scope="session")
def page_file(made) -> Path:
    return Path(made[0].path(PAGE))


@pytest.fixture(scope="session")
def tab() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("needs Debian's package chromium, or Chrome, on the PATH")
    with browser() as page:
        yield page


@pytest.fixture
def opened(tab, page_file) -> Page:
    """The page as it was just opened, on a wide screen in the light."""
    tab.errors.clear()
    tab.look()
    tab.open(page_file)
    return tab


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, whose file LR_RAY_AXE names: `npm install axe-core` has it."""
    file = os.environ.get("LR_RAY_AXE")
    if not file:
        pytest.skip("needs LR_RAY_AXE, the path of axe-core's axe.min.js")
    return Path(file).read_text()
