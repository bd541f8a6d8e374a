"""The forms in which a command tells what it does."""

import json
import logging
import os

import pytest

from lr_ray import output
from lr_ray.cli.front import run_command
from lr_ray.console import StageProgress, quiet_others
from lr_ray.errors import UserError


def told(form, tmp_path, capfd) -> str:
    """What is seen of a stage of work, and of what is printed around it."""
    with output.told_as(form):
        print("run        here")
        with quiet_others(str(tmp_path / "log")) as console:
            console.print("placement  on the CPUs")
            os.write(1, b"of a library\n")
            logging.getLogger("lr_ray").info("an engine was started again")
            with StageProgress(console, "sampling", 4, "problems") as progress:
                progress.LINE_EVERY = 0.0
                progress.update(4, "kept 10 %")
    return capfd.readouterr().out


def test_plain_has_lines_and_neither_libraries_nor_the_log(tmp_path, capfd):
    said = told("plain", tmp_path, capfd)
    assert said == "run        here\nplacement  on the CPUs\nsampling   4/4 problems  kept 10 %\n"


def test_quiet_leaves_out_progress(tmp_path, capfd):
    assert told("quiet", tmp_path, capfd) == "run        here\n"


def test_verbose_has_the_log_too(tmp_path, capfd):
    said = told("verbose", tmp_path, capfd)
    assert "an engine was started again\n" in said
    assert "of a library" not in said
    assert "sampling   4/4" in said


def test_json_is_an_object_a_line_with_progress_by_its_parts(tmp_path, capfd):
    lines = [json.loads(line) for line in told("json", tmp_path, capfd).splitlines()]
    assert lines[:2] == [{"text": "run        here"}, {"text": "placement  on the CPUs"}]
    first, *_, last = (line for line in lines if "stage" in line)
    assert (first["stage"], first["done"], first["total"]) == ("sampling", 0, 4)
    assert (last["done"], last["unit"], last["note"]) == (4, "problems", "kept 10 %")
    assert all({"text"} == line.keys() or "stage" in line for line in lines)


@pytest.mark.parametrize("asked", [["--output", "json"], ["--output=quiet", "--output=json"]])
def test_the_option_may_stand_anywhere_and_the_last_one_counts(asked):
    assert output.taken(["--run", "r", *asked, "--yes"]) == ("json", ["--run", "r", "--yes"])
    assert output.taken(["--run", "r"]) == ("plain", ["--run", "r"])


@pytest.mark.parametrize("asked", [["--output", "loud"], ["--output"]])
def test_another_form_is_refused_in_a_line(asked, capsys):
    with pytest.raises(UserError):
        output.taken(asked)
    assert run_command(["status", "--run", "none", *asked]) == 2
    assert "give one of plain, quiet, verbose, json" in capsys.readouterr().err
