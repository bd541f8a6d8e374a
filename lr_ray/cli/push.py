"""Give what a run has made to others: a repository of the Hugging Face hub, or a folder to look at first.

lr-ray push --run RUN --to org/name [--what adapter|model|supervision] [--public]
lr-ray push --run RUN --to ./FOLDER [--what adapter|model|supervision]

Of several rounds, adapter and model are the result's. The card (README.md) is made of the run. A repository
is private unless --public is given, and needs a token of the hub that may write (`hf auth login`, or
HF_TOKEN). A later push replaces what the one before brought.
"""

import argparse
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from lr_ray.cli.front import Parser
from lr_ray.config import value_at
from lr_ray.errors import StageError, UserError, counted, named, reason
from lr_ray.labelling.shards import checked_footers
from lr_ray.models.adapters import CONFIG, check_adapter_weights
from lr_ray.models.files import check_weights, read_object
from lr_ray.models.whole import check_files
from lr_ray.report.card import CARD, PRODUCTS, card, shown, unlike_id
from lr_ray.run.paths import check_home, check_lasting
from lr_ray.run.rounds import result_of
from lr_ray.run.store import Run, read_asked, read_summary

# Of a push before, where files had other names.
_REPLACED = ["*.safetensors", "*.safetensors.index.json", "data/*.parquet"]


def main(argv: list[str]) -> int:
    options = _parse(argv)
    run, what, to = Run(options.run), options.what, options.to
    hub = _is_hub(to)
    if options.public and not hub:
        raise UserError(f"--public: --to {to} is a folder; leave one of the two out")
    made = run if what == "supervision" else result_of(run)
    summary = _check(made, what)
    folder = None if hub else _check_folder(to)
    if hub:
        _check_repository(to, what, options.public)
    with (
        made.lock(shared=True),
        tempfile.TemporaryDirectory(prefix="lr_ray-") as scratch,
        _laid_out(folder or Path(scratch, "staged"), to) as target,
    ):
        _stage(made, summary, what, to, target, hub, scratch)
        files = sorted(str(p.relative_to(target)) for p in target.rglob("*") if not p.is_dir())
        where = _upload(target, to, what, options.public) if hub else f"{to}, not pushed"
    if made is not run:
        print(f"round      {made.location}, the result of all rounds")
    print(
        f"{what:<10} {counted(len(files), 'file')}: {', '.join(files[:8])}{', ...' * (len(files) > 8)}"
    )
    print(f"output     {where}")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="lr-ray push", description=__doc__)
    add = parser.add_argument
    add("--run", metavar="DIR_OR_URI", required=True, help="run directory")
    add(
        "--to",
        metavar="ORG/NAME",
        required=True,
        help="repository of the hub; or a folder, as ./out: written there, and nothing is pushed",
    )
    add("--what", choices=("adapter", "model", "supervision"), default="adapter", help="(adapter)")
    add("--public", action="store_true", help="let everybody read the repository")
    return parser.parse_args(argv)


def _is_hub(to: str) -> bool:
    """Whether --to is a repository and no folder. Raises UserError where it is neither."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if to.startswith((".", "/", "~")):
        return False
    try:
        validate_repo_id(to)
    except HFValidationError:
        to = ""
    if to.count("/") != 1:
        raise UserError("--to: must be org/name, a repository of the hub, or a folder as ./out")
    return True


def _check(run: Run, what: str) -> dict[str, Any]:
    """The run's summary. Raises UserError unless the stage that makes the product is finished."""
    method = value_at(read_asked(run)["config"], "training.method")
    summary, stage = read_summary(run), PRODUCTS[what].stage
    if stage not in summary:
        raise UserError(
            f"--run {run.location}: {stage} is not finished, and {what} is what it makes"
        )
    if not run.exists(what):
        other = " (training.method = full); give --what model" if method == "full" else ""
        raise UserError(f"--run {run.location}: has no {what}{other}")
    return summary


def _check_folder(to: str) -> Path:
    check_home(to, "--to")
    folder = Path(os.path.expanduser(to))
    check_lasting(str(folder), f"--to {to}")
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"--to {to}: is there and not an empty folder; give another")
    return folder


def _check_repository(to: str, what: str, public: bool) -> None:
    """Raises UserError without a token, and for a repository that is public against what was asked."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if not get_token():
        raise UserError(
            "no token of the Hugging Face hub: run `hf auth login`, or set HF_TOKEN to one that may "
            f"write; a folder is given as --to ./{to}"
        )

    is_public = public
    with _asking(to), contextlib.suppress(RepositoryNotFoundError):  # which create_repo makes
        is_public = not HfApi().repo_info(to, repo_type=PRODUCTS[what].repo_type).private
    if is_public != public:
        there, advice = ("private", "leave out") if public else ("public", "give")
        raise UserError(
            f"--to {to}: is a {there} repository; {advice} --public, or give another name"
        )


@contextlib.contextmanager
def _laid_out(folder: Path, name: str) -> Iterator[Path]:
    """A folder beside `folder`, or in one that is there and empty; what is put in it appears whole or not."""
    beside = folder if os.path.isdir(folder) else folder.parent
    try:
        if not beside.exists():
            beside.mkdir(parents=True)
        scratch = tempfile.TemporaryDirectory(dir=beside, prefix=".lr_ray-")
    except OSError as error:
        raise UserError(f"--to {name}: {error.strerror}") from None
    with scratch as inside:
        staged = Path(inside, "staged")
        staged.mkdir()
        yield staged
        if beside != folder:
            staged.rename(folder)
            return
        for made in staged.iterdir():
            made.rename(folder / made.name)


def _stage(
    run: Run, summary: dict[str, Any], what: str, name: str, target: Path, hub: bool, scratch: str
) -> None:
    """Lays the product's files and its card out in a folder, as they are to lie in a repository."""
    place = os.symlink if hub else shutil.copyfile
    if what == "supervision":
        try:
            checked_footers(run, what)
        except StageError as error:
            raise UserError(str(error)) from None
    source, where = Path(run.local_folder(what, scratch)), f"--run {run.location}: {what}"
    inside = target / "data" if what == "supervision" else target
    inside.mkdir(exist_ok=True)
    for file in _files_of(source, what, where):
        if what == "adapter" and file.name == CONFIG:
            _write_config(run, file, inside / file.name, where)
        elif file.name != CARD:
            place(file.resolve(), inside / file.name)
    text = _card(run, summary, what, name, ask_hub=hub)
    (target / CARD).write_text(text, encoding="utf-8")


def _files_of(source: Path, what: str, where: str) -> list[Path]:
    """What is given to others. Raises UserError for what is no file, and a product that is not whole."""
    found = [file for file in sorted(source.iterdir()) if not file.name.startswith(".")]
    for file in found:
        if not file.is_file():
            raise UserError(f"{where}: {file.name} is no file; move it elsewhere")
    if what == "model":
        check_weights(source, where)
        check_files(source, where)
    elif what == "adapter":
        check_adapter_weights(source, where)
        read_object(source / CONFIG, where)
    elif not any(file.suffix == ".parquet" for file in found):
        raise UserError(f"{where}: no *.parquet shards; label the run again")
    return found


def _card(run: Run, summary: dict[str, Any], what: str, name: str, ask_hub: bool) -> str:
    try:
        return card(run, summary, what, name, ask_hub)
    except (
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        TemplateError,
    ) as error:
        said = f"run.json and summary.json are not as they were written: {named(error)}"
        raise UserError(f"--run {run.location}: no card: {said}") from None


def _write_config(run: Run, file: Path, target: Path, where: str) -> None:
    """Without where the base model's files lay on this machine."""
    config = read_object(file, where)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str):
        raise UserError(
            f"{where}: {file.name}: base_model_name_or_path = {base!r}: must name the base model"
        )
    config["base_model_name_or_path"] = shown(unlike_id(read_asked(run), base))
    target.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _upload(folder: Path, to: str, what: str, public: bool) -> str:
    from huggingface_hub import HfApi

    kind, api = PRODUCTS[what].repo_type, HfApi()
    with _asking(to):
        made = api.create_repo(to, private=not public, repo_type=kind, exist_ok=True)
        api.upload_folder(
            repo_id=to,
            folder_path=folder,
            repo_type=kind,
            commit_message=f"Push {what} by lr_ray",
            delete_patterns=_REPLACED,
        )
    return f"{made.url} ({'public' if public else 'private'})"


@contextlib.contextmanager
def _asking(to: str) -> Iterator[None]:
    """Raises StageError with one line of why the hub, asked within, does not answer."""
    try:
        yield
    except Exception as error:  # the hub's own kinds and its HTTP library's
        said = getattr(error, "server_message", None) or reason(error)
        raise StageError(f"--to {to}: not to be had from the hub: {said.splitlines()[0]}") from None
