"""Give what a run has made to others: a repository of the Hugging Face hub, or a folder to look at first.

lr-ray push --run RUN --to org/name [--what adapter|model|supervision] [--public]
lr-ray push --run RUN --to ./FOLDER [--what adapter|model|supervision]

The card (README.md) is made of the run. A repository is private unless --public is given, and needs a token
of the hub that may write (`hf auth login`, or HF_TOKEN). A later push replaces what the one before brought.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lr_ray.cli.front import Parser
from lr_ray.errors import StageError, UserError, reason
from lr_ray.run.store import Run, read_asked, read_summary

# Of a push before, where files had other names.
_REPLACED = ["*.safetensors", "*.safetensors.index.json", "data/*.parquet"]


def main(argv: list[str]) -> int:
    options = _parse(argv)
    run, what, to = Run(options.run), options.what, options.to
    hub = _is_hub(to)
    summary = _check(run, what)
    folder = None if hub else _check_folder(to)
    if hub:
        _check_repository(to, what, options.public)
    with run.lock(shared=True), tempfile.TemporaryDirectory(prefix="lr_ray-") as scratch:
        target = folder or Path(scratch, "staged")
        _stage(run, summary, what, to, target, os.symlink if hub else shutil.copyfile, scratch)
        files = sorted(str(p.relative_to(target)) for p in target.rglob("*") if not p.is_dir())
        where = _upload(target, to, what, options.public) if hub else f"{to}, not pushed"
    print(f"{what:<10} {len(files)} files: {', '.join(files[:8])}{', ...' * (len(files) > 8)}")
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
    from lr_ray.report.card import PRODUCTS

    method = read_asked(run)["config"].get("training", {}).get("method")
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
    folder = Path(os.path.expanduser(to))
    if to.startswith("~") and folder == Path(to):
        raise UserError(
            f"--to {to}: no such directory: {folder.parts[0]} is nobody's; give another"
        )
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"--to {to}: is there and not an empty folder; give another")
    return folder


def _check_repository(to: str, what: str, public: bool) -> None:
    """Raises UserError without a token, and for a repository that is public against what was asked."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    from lr_ray.report.card import PRODUCTS

    if not get_token():
        raise UserError(
            "no token of the Hugging Face hub: run `hf auth login`, or set HF_TOKEN to one that may write"
        )

    def is_public() -> bool:
        try:
            return not HfApi().repo_info(to, repo_type=PRODUCTS[what].repo_type).private
        except RepositoryNotFoundError:  # which create_repo makes
            return public

    if _asking(to, is_public) != public:
        there, advice = ("private", "leave out") if public else ("public", "give")
        raise UserError(
            f"--to {to}: is a {there} repository; {advice} --public, or give another name"
        )


def _stage(
    run: Run,
    summary: dict[str, Any],
    what: str,
    name: str,
    target: Path,
    place: Callable[[Path, Path], Any],
    scratch: str,
) -> None:
    """Lays the product's files and its card out in a folder, as they are to lie in a repository."""
    from lr_ray.report.card import CARD, card

    source = Path(run.local_folder(what, scratch))
    inside = target / "data" if what == "supervision" else target
    try:
        inside.mkdir(parents=True)
    except FileExistsError:  # and empty
        pass
    except OSError as error:
        raise UserError(f"--to {name}: {error.strerror}") from None
    for file in sorted(source.iterdir()):
        if file.name == "adapter_config.json":
            _write_config(file, inside / file.name)
        elif file.name != CARD and not file.name.startswith("."):
            place(file.resolve(), inside / file.name)
    text = card(run, summary, what, name, ask_hub=place is os.symlink)
    (target / CARD).write_text(text, encoding="utf-8")


def _write_config(file: Path, target: Path) -> None:
    """Without where the base model's files lay on this machine."""
    from lr_ray.report.card import shown

    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = shown(config["base_model_name_or_path"])
    target.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _upload(folder: Path, to: str, what: str, public: bool) -> str:
    from huggingface_hub import HfApi

    from lr_ray.report.card import PRODUCTS

    kind, api = PRODUCTS[what].repo_type, HfApi()

    def upload() -> str:
        made = api.create_repo(to, private=not public, repo_type=kind, exist_ok=True)
        api.upload_folder(
            repo_id=to,
            folder_path=folder,
            repo_type=kind,
            commit_message=f"Push {what} by lr_ray",
            delete_patterns=_REPLACED,
        )
        return made.url

    return f"{_asking(to, upload)} ({'public' if public else 'private'})"


def _asking(to: str, ask: Callable[[], Any]) -> Any:
    """What the hub answers. Raises StageError with one line of why it does not."""
    try:
        return ask()
    except Exception as error:  # the hub's own kinds and its HTTP library's
        said = getattr(error, "server_message", None) or reason(error)
        raise StageError(f"--to {to}: not to be had from the hub: {said.splitlines()[0]}") from None
