"""The commands' names, help and errors; nothing here starts Ray."""

import errno
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from lr_ray.cli.front import COMMANDS, guarded, run_command
from lr_ray.cli.plan import SHOWN as PLAN
from lr_ray.cli.serve import SHOWN as SERVE
from lr_ray.cli.stages import EVALUATION, LABELLING, METHOD, SAMPLING, TRAINING
from lr_ray.config import ROLES, flatten, read_tree, resolve
from lr_ray.errors import UserError
from lr_ray.run.store import Run
from lr_ray.runtime import interrupts

ROOT = Path(__file__).parents[2]
OF_THE_CONFIG = ["run", "sample", "label", "train", "evaluate", "serve", "compare", "probe", "audit", "plan", "import", "export"]  # fmt: skip
FIELDS = set(flatten(resolve(read_tree("demo")).model_dump()))
# An empty mapping has no names of its own.
FIELDS |= {*(f"resources.{role}.custom" for role in ROLES), "models.chat_template_kwargs"}
STAGES = ["run", "sample", "label", "train", "evaluate"]


@pytest.fixture
def said(capsys):
    """Runs a command in this process; its exit code, output and errors."""

    def run(*argv: str) -> tuple[int, str, str]:
        code = run_command(argv)
        return code, *capsys.readouterr()

    return run


def options(text: str) -> list[str]:
    """The options that a help describes, in its order."""
    return re.findall(r"^  (?:-h, )?(--[\w.-]+)", text, re.MULTILINE)


@pytest.mark.parametrize("arguments", [["-m", "lr_ray", "--help"], ["jobs/sample.py", "--help"]])
def test_help_loads_no_heavy_library(arguments):
    code = (
        "import atexit, runpy, sys\n"
        "heavy = ('torch', 'ray', 'vllm', 'transformers', 'pydantic_settings')\n"
        "atexit.register(lambda: print([m for m in heavy if m in sys.modules]))\n"
        "sys.argv = sys.argv[1:]\n"
        "run = runpy.run_module if sys.argv[0] == '-m' else runpy.run_path\n"
        "sys.argv = sys.argv[sys.argv[0] == '-m':]\n"
        "run(sys.argv[0], run_name='__main__')"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    assert "--config NAME_OR_PATH" in out.stdout
    assert out.stdout.splitlines()[-1] == "[]"


def test_the_list_of_commands_needs_the_standard_library_alone():
    code = (
        "import sys\nfrom lr_ray.cli.front import main\nsys.argv = ['lr-ray', '--help']\ntry:\n    main()\n"
        "except SystemExit:\n    print([m for m in ('numpy', 'pydantic', 'psutil', 'yaml') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.splitlines()[-1] == "[]"
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", out.stdout, re.MULTILINE)


def test_a_command_that_is_not_there_is_one_line(said):
    assert said("smaple") == (2, "", "error: no command 'smaple'; did you mean sample? (--help says what they do)\n")  # fmt: skip
    code, out, error = said("?")
    assert (code, out) == (2, "")
    assert error.startswith("error: no command '?'; give one of run, sample, label, ")
    code, out, error = said()
    assert code == 2
    assert out.startswith("usage: lr-ray COMMAND")


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "--config", "demo", "--data.source", "a\nb.jsonl"),
        ("plan", "--config", "no\rpreset"),
        ("status", "--run", "no\x1bwhere"),
        ("plan", "one\ntwo"),
        ("grade", "no\nfile.jsonl"),
    ],
)
def test_names_with_line_ends_in_them_make_no_second_line(said, words):
    code, _, error = said(*words)
    assert (code, error.count("\n")) == (2, 1)
    assert error.strip().isprintable()


@pytest.mark.parametrize(
    ("code", "ends"),
    [(None, (0, "", "")), (0, (0, "", "")), (3, (3, "", "")),
     ("no\nlicence", (1, "", "error: the program was ended: no\\nlicence\n")),
     (["a"], (1, "", "error: the program was ended: ['a']\n"))],
)  # fmt: skip
def test_whatever_ends_the_program_within_a_command_is_told(said, monkeypatch, code, ends):
    monkeypatch.setattr("lr_ray.cli.status.main", lambda argv: sys.exit(code))
    assert said("status") == ends


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("run", "--config", "demo", "--run", ""), "--run"),
        (("plan", "--config", "", "--run", "runs/x"), "--config"),
        (("train", "--from=", "--run", "runs/x"), "--from"),
        (("status", "--run", ""), "--run"),
        (("compare", "--config", "demo", "--grid", ""), "--grid"),
        (("plan", "--config", "demo", "--plugins", ""), "--plugins"),
    ],
)
def test_an_empty_name_is_not_taken_for_none(said, words, option):
    error = f"error: argument {option}: is empty; give a value (--help lists the options)\n"
    assert said(*words) == (2, "", error)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--training.learning_rate", "-1e-4"), "--training.learning_rate has no value; give one, and one that begins with - as --training.learning_rate=-..."),
        (("--config",), "--config has no value; give one, and one that begins with - as --config=-..."),
        (("--training/seed", "3"), "unknown option --training/seed; did you mean --training.seed?"),
        (("--", "--training.seed", "3"), "unrecognized arguments: -- --training.seed 3"),
    ],
)  # fmt: skip
def test_what_argparse_cannot_place_is_told_with_what_would_be_right(said, words, line):
    assert said("plan", *words) == (2, "", f"error: {line} (--help lists the options)\n")


def test_dashes_alone_make_no_option_close(said):
    error = "error: unrecognized arguments: --from runs/demo (--help lists the options)\n"
    assert said("probe", "--config", "demo", "--from", "runs/demo") == (2, "", error)


def test_samples_given_twice_are_all_read(tmp_path, monkeypatch):
    given = []

    def look(files, _):
        given.extend(files)
        raise UserError("looked")

    monkeypatch.setattr("lr_ray.interop.reading.check_files", look)
    words = "--samples a.jsonl b.jsonl --samples c.jsonl"
    assert run_command(["import", "--config=demo", f"--run={tmp_path}", *words.split()]) == 2
    assert given == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_a_terminal_without_a_width_is_told_all(said, monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    code, out, _ = said("plan", "--config", "demo")
    assert code == 0
    assert out.startswith("plan       demo, on CPUs alone\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(said, name):
    code, out, error = said(name, "--help")
    assert (code, error) == (0, "")
    assert out.startswith(f"usage: lr-ray {name}")


def test_help_of_a_probe_says_which_config_and_where(said):
    text = " ".join(said("probe", "--help")[1].split())
    assert "--config NAME_OR_PATH preset or YAML file of the run to come --run" in text
    assert "without it, runs/<config>-probe" in text


@pytest.mark.parametrize("name", OF_THE_CONFIG)
def test_help_has_the_commands_own_options_first_and_few_settings(said, name):
    shown = options(said(name, "--help")[1])
    own = [option for option in shown if "." not in option]
    assert shown[: len(own)] == own
    assert {"--config", "--run", "--help-all"} <= set(own)
    assert ("--from" in own and "--yes" in own) == (name in STAGES)
    settings = {option[2:] for option in shown[len(own) :]}
    assert settings < FIELDS
    assert len(settings) <= 60


@pytest.mark.parametrize(
    ("name", "has", "lacks"),
    [
        ("sample", ["sampling.kl_threshold", "data.source", "resources.amateur.gpus"], ["training.", "evaluation.", "serving."]),
        ("label", ["sampling.selection"], ["training.", "data.", "sampling.expert.dtype"]),
        ("train", ["training.lora.rank"], ["sampling.", "data.", "evaluation.", "serving."]),
        ("evaluate", ["evaluation.benchmarks", "serving.max_model_len"], ["training.", "sampling.", "data."]),
        ("serve", ["serving.port"], ["training.", "sampling.", "data.", "evaluation."]),
        ("run", ["sampling.kl_threshold", "training.optimizer_steps"], ["resources."]),
    ],
)  # fmt: skip
def test_help_has_the_sections_that_a_command_reads(said, name, has, lacks):
    shown = {option[2:] for option in options(said(name, "--help")[1])}
    assert set(has) <= shown
    assert not [field for field in shown if field.startswith(tuple(lacks))]


@pytest.mark.parametrize("name", OF_THE_CONFIG)
def test_help_all_has_every_setting(said, name):
    shown = {option[2:] for option in options(said(name, "--help-all")[1])}
    assert shown >= FIELDS


def test_endpoints_and_directories_are_in_the_help(said):
    assert {"--endpoint", "--models"} <= set(options(said("evaluate", "--help")[1]))
    assert "--models" in options(said("serve", "--help")[1])
    shown = options(said("evaluate", "--endpoint", "x", "--help")[1])
    assert "--endpoint" in shown
    assert "--evaluation.shots" in shown
    assert "--from" not in shown


def test_names_of_an_endpoints_models_need_the_endpoint(said, tmp_path):
    for given in (["--models", "a,b"], ["--models=a,b"]):
        code, _, error = said("evaluate", "--run", str(tmp_path), *given)
        assert (code, error) == (2, "error: --models: names what an --endpoint serves; give --endpoint URL too, or leave it out\n")  # fmt: skip


def test_directories_that_are_served_are_of_no_run(said, tmp_path):
    code, _, error = said("serve", "--models", "a=embedded:expert", "--run", str(tmp_path))
    assert (code, error) == (2, f"error: --run {tmp_path}: --models serves directories, of no run; give one of the two\n")  # fmt: skip


def test_a_folder_is_not_made_public(said, tmp_path):
    asked = ["--run", str(tmp_path), "--to", "./out", "--public"]
    code, _, error = said("push", *asked)
    assert (code, error) == (2, "error: --public: --to ./out is a folder; leave one of the two out\n")  # fmt: skip


def test_amateurs_for_a_grid_that_names_none_are_refused(said, tmp_path):
    run = tmp_path / "run"
    asked = ["--config", "demo", "--run", str(run), "--grid", "threshold"]
    code, _, error = said("compare", *asked, "--amateurs", str(tmp_path))
    assert (code, error) == (2, f"error: --amateurs {tmp_path}: no variant of grid threshold has an amateur of its own; leave it out\n")  # fmt: skip
    assert not run.exists()


def test_what_an_endpoints_first_model_is_has_no_default(said, tmp_path):
    asked = ["--endpoint", "http://127.0.0.1:9/v1", "--models", "a", "--run", str(tmp_path / "run")]
    code, _, error = said("evaluate", *asked, "--evaluation.protocol", "paper")
    assert code == 2
    assert "evaluation.paper.expert_prompt = auto: " in error
    assert error.endswith("give completion or chat\n")
    code, _, error = said("evaluate", *asked, "--evaluation.protocol", "paper", "--config", "qwen2.5-math-1.5b")  # fmt: skip
    assert "does not answer" in error


@pytest.mark.parametrize("name", OF_THE_CONFIG)
def test_a_setting_that_help_leaves_out_is_known_all_the_same(said, name, tmp_path):
    required = {"import": ["--samples", "x"], "export": ["--out", "x"]}.get(name, [])
    arguments = ["--config", "demo", "--run", str(tmp_path / "run"), *required]
    code, _, error = said(name, *arguments, "--training.lora.rank", "x")
    assert code == 2
    assert error.startswith("error: config: training.lora.rank = 'x': ")
    code, _, error = said(name, *arguments, "--training.lora.rnak", "4")
    assert (code, error) == (2, "error: unknown option --training.lora.rnak; did you mean --training.lora.rank? (--help lists the options)\n")  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_the_config_of_another_run_is_the_base(said, tmp_path):
    code, _, error = said("sample", "--from", str(tmp_path))
    assert (code, error) == (2, "error: --from takes the new run's --run too (--help lists the options)\n")  # fmt: skip
    code, _, error = said("sample", "--from", str(tmp_path), "--run", str(tmp_path / "new"))
    assert (code, error) == (2, f"error: --from {tmp_path}: no run there: it has no run.json\n")


ANOTHER = "give one that is there (lr-ray run --config NAME begins one)\n"


@pytest.mark.parametrize("name", sorted({*OF_THE_CONFIG, "status", "push"} - {"probe"}))
def test_a_run_that_is_not_there_is_told_with_the_closest_beside_it(said, name, tmp_path):
    required = {"import": ["--samples", "x"], "export": ["--out", "x"], "push": ["--to", "./x"]}
    (tmp_path / "demo").mkdir()
    asked = [name, "--run", str(tmp_path / "dmeo"), *required.get(name, [])]
    none = f"error: --run {tmp_path}/dmeo: no such run; "
    assert said(*asked) == (2, "", f"{none}{ANOTHER}")  # a folder beside it is no run
    (tmp_path / "demo/run.json").write_text("{}")
    assert said(*asked) == (2, "", f"{none}did you mean {tmp_path}/demo?\n")
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize("name", ["label", "train", "evaluate", "serve", "export", "audit"])
def test_what_needs_a_run_begins_none_of_a_config(said, name, tmp_path):
    required = ["--out", "x"] if name == "export" else []
    asked = ["--config", "demo", "--run", str(tmp_path / "new"), *required]
    code, out, error = said(name, *asked)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith(f"error: --run {tmp_path}/new: no such run; give one that is there")
    assert list(tmp_path.iterdir()) == []


def test_a_run_to_take_over_from_that_is_not_there_leaves_nothing(said, tmp_path):
    asked = ["--config", "demo", "--run", str(tmp_path / "new"), "--from", str(tmp_path / "none")]
    error = f"error: --from {tmp_path}/none: no such run; {ANOTHER}"
    assert said("sample", *asked) == (2, "", error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["memory://absent", "memory://absent/deep"])
def test_a_run_that_no_store_has_is_told(said, folder):
    error = f"error: --run {folder}/dmeo: no such run; "
    asked = ["train", "--run", f"{folder}/dmeo"]
    assert said(*asked) == (2, "", f"{error}{ANOTHER}")
    Run(f"{folder}/demo").write_json("run.json", {})
    assert said(*asked) == (2, "", f"{error}did you mean {folder}/demo?\n")


def test_signal_handlers_are_given_back(said):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert said("sample", "--config", "none")[0] == 2
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("script", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_jobs_are_the_commands(script):
    names = {"full_pipeline": "run", "import_samples": "import", "export_samples": "export"}
    name = names.get(script.stem, script.stem)
    assert f'job("{name}")' in script.read_text()
    assert name in COMMANDS


@pytest.mark.parametrize("shown", [METHOD, SAMPLING, LABELLING, TRAINING, EVALUATION, PLAN, SERVE])
def test_what_help_shows_is_there(shown):
    for part in shown:
        assert any(field == part or field.startswith(f"{part}.") for field in FIELDS), part


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "whatever", "/data/run/report.html"), "/data/run/report.html: No space left on device"),
        (OSError(errno.EDQUOT, "whatever"), "Disk quota exceeded"),
    ],
)  # fmt: skip
def test_a_disk_that_is_full_is_one_line_whatever_was_written(capsys, error, line):
    def work():
        raise error

    with interrupts.borrowed():
        assert guarded(work) == 1
    there = capsys.readouterr().err
    assert there == f"error: {line}; make room for the run; the same command goes on where it was\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "whatever"), "/scratch: No space left on device; make room there, or name another folder with TMPDIR"),
        (OSError(errno.ENOSPC, "whatever", "/scratch/ray/x"), "/scratch/ray/x: No space left on device; make room there, or name another folder with TMPDIR"),
        (OSError(errno.ENOSPC, "whatever", "/model/x", None, "/data/run/x"), "/data/run/x: No space left on device; make room for the run"),
        (sqlite3.OperationalError("database or disk is full"), "/scratch: No space left on device; make room there, or name another folder with TMPDIR"),
    ],
)  # fmt: skip
def test_a_full_disk_of_temporary_files_is_named(capsys, monkeypatch, error, line):
    def work():
        raise error

    monkeypatch.setenv("TMPDIR", "/scratch")
    monkeypatch.setattr(tempfile, "tempdir", None)
    free = {"/scratch": 4096}
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free.get(path, 1e9)))
    with interrupts.borrowed():
        assert guarded(work) == 1
    assert capsys.readouterr().err == f"error: {line}; the same command goes on where it was\n"


def test_an_error_whose_traceback_finds_no_room_is_one_line(capsys, monkeypatch):
    def work():
        raise KeyError("x")

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    with interrupts.borrowed():
        assert guarded(work) == 1
    said = "error: KeyError: 'x' (traceback: none, No space left on device)\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["doctor", "--json"]])
def test_output_that_nobody_reads_ends_in_silence(words):
    end, unread = os.pipe()
    os.close(end)
    command = [sys.executable, "-m", "lr_ray", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=unread, stderr=subprocess.PIPE, text=True)
    os.close(unread)
    assert (done.returncode, done.stderr) == (1, "")


def test_help_that_finds_no_room_is_one_line():
    command = [sys.executable, "-m", "lr_ray", "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device; make room\n")
