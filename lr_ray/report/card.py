"""The README.md of what a run has made: a model card or a data card of the Hugging Face hub.

All of it is read from the run; what nobody has stated, such as a licence, is called unknown.
pytest tests/unit/test_push.py
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lr_ray import embedded
from lr_ray.config import Config, changed, resolve
from lr_ray.models.files import read_object
from lr_ray.problems.benchmarks import find
from lr_ray.report.page import templates
from lr_ray.report.terminal import difference_line
from lr_ray.run.asked import is_imported, used_by_imported
from lr_ray.run.rounds import place_of
from lr_ray.run.store import Run, read_asked

CARD = "README.md"
SPACE = re.compile(r"[\w.-]+/[\w.-]+")  # an id of the hub: org/name
_LICENCE = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class Product:
    """A folder of a run that can be given to others: the stage that makes it, and what affects it."""

    stage: str
    effects: tuple[str, ...]
    repo_type: str = "model"


_ROWS = ("trajectories", "scores", "rows")
PRODUCTS = {
    "adapter": Product("training", (*_ROWS, "weights")),
    "model": Product("training", (*_ROWS, "weights")),
    "supervision": Product("sampling", _ROWS, "dataset"),
}


def write_cards(run: Run, summary: Mapping[str, Any]) -> None:
    """The cards of the folders that training has left in a run; does nothing before."""
    for what, product in PRODUCTS.items():
        if product.repo_type == "model" and "training" in summary and run.exists(what):
            run.write_bytes(f"{what}/{CARD}", card(run, summary, what, ".").encode())


def card(run: Run, summary: Mapping[str, Any], what: str, name: str, ask_hub: bool = False) -> str:
    """The text of a product's card; `name` is what its snippets load, an id of the hub or a folder.

    `ask_hub`: the licence of a base model that no card beside its files states is looked up there.
    """
    asked = read_asked(run)
    config = resolve(asked["config"])
    of, number = place_of(run, config.models.expert)
    imported = is_imported(asked)
    base = unlike_id(asked, config.models.expert)
    config = changed(config, {"models.expert": base})
    licence = _licence(base, ask_hub)
    environment = templates("lr_ray.report", autoescape=False)
    environment.filters["difference"] = difference_line
    text = environment.get_template("card.md.j2").render(
        what=what, name=name, of=of, number=number, config=config, summary=summary,
        base=shown(base), base_on_hub=_on_hub(base),
        embedded=base.startswith("embedded:"), amateur=shown(config.models.amateur),
        licence=licence, data=_data_set(config), source=shown(config.data.source),
        imported=imported, files=[shown(f"./{f}") for f in summary.get("sampling", {}).get("imported", [])],
        settings=_settings(config, PRODUCTS[what].effects, imported), versions=asked.get("versions", {}),
        models=asked.get("models", {}),
    )  # fmt: skip
    # Without the blank lines that the template's conditions leave behind.
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    return f"---\n{_front(what, config, licence, imported)}\n---\n\n{text}\n"


def _front(what: str, config: Config, licence: Mapping[str, str], imported: bool) -> str:
    """The YAML that the hub reads."""
    from huggingface_hub import DatasetCardData, ModelCardData

    lora = ["lora"] if what == "adapter" else []
    method = "imported" if imported else config.sampling.method
    tags = ["lightreasoner", "lr_ray", "arxiv:2510.07962", method, *lora]
    known: dict[str, Any] = {"license": "unknown", **licence, "tags": tags}
    if PRODUCTS[what].repo_type == "dataset":
        files = [{"config_name": "default", "data_files": "data/*.parquet"}]
        known |= {"task_categories": ["text-generation"], "configs": files}
        return str(DatasetCardData(**known).to_yaml())
    known["library_name"] = "peft" if what == "adapter" else "transformers"
    known["pipeline_tag"] = "text-generation"
    if _on_hub(config.models.expert):
        relation = "adapter" if what == "adapter" else "finetune"
        known |= {"base_model": config.models.expert, "base_model_relation": relation}
    if not imported and (hub := _data_set(config)):
        known["datasets"] = [hub]
    return str(ModelCardData(**known).to_yaml())


def unlike_id(asked: Mapping[str, Any], base: str) -> str:
    """A run's base model, with ./ before a directory that would read like an id of the hub elsewhere."""
    directory = asked.get("models", {}).get("expert", {}).get("directory")
    return f"./{base}" if directory and SPACE.fullmatch(base) else base


def shown(reference: str) -> str:
    """A path's or URI's last part, which says enough to others; anything else as it is."""
    local = reference.startswith(("/", "./", "../", "~")) or "://" in reference
    return reference.rstrip("/").rpartition("/")[2] if local else reference


def _licence(base: str, ask_hub: bool) -> dict[str, str]:
    """What the base model's own card says of its licence, else its config.json; empty where neither does."""
    folder = _folder(base)
    card = folder / CARD if folder else None
    if card and card.is_file() and (said := _stated(card)):
        return said
    if folder and (folder / "config.json").is_file():
        config = read_object(folder / "config.json", f"models.expert: {base}")
        if isinstance(config.get("license"), str):
            return {"license": config["license"]}
    return _stated(base) if ask_hub and folder is None and _on_hub(base) else {}


def _folder(base: str) -> Path | None:
    """Where a base model's files are without fetching any: its directory, or its place in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    if base == "embedded:expert":
        return embedded.expert_path()
    if os.path.isdir(there := os.path.expanduser(base)):
        return Path(there)
    cached = try_to_load_from_cache(base, CARD) if _on_hub(base) else None
    return Path(cached).parent if isinstance(cached, str) else None


def _on_hub(base: str) -> bool:
    """Whether a base model or a data set is named by its id on the hub, and not by a directory."""
    return bool(SPACE.fullmatch(base)) and not os.path.isdir(base)


def _stated(card: Path | str) -> dict[str, str]:
    """The licence of a card, of a file or an id of the hub."""
    from huggingface_hub import ModelCard

    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # the hub's and httpx' kinds, and YAML's
        return {}
    return {name: str(data[name]) for name in _LICENCE if data.get(name)}


def _data_set(config: Config) -> str | None:
    """The id on the hub of the problems that were sampled."""
    source = config.data.source
    if known := find(source):
        return known.hub or None
    name = source.split(":")[0]
    return name if _on_hub(name) and "." not in name.rpartition("/")[2] else None


def _settings(config: Config, effects: tuple[str, ...], imported: bool) -> list[tuple[str, str]]:
    """Name and value of every setting that the product depends on, without where files were."""
    asked = config.inputs(*effects).items()
    depends = [(n, value) for n, value in asked if not imported or used_by_imported(n)]
    prompt = "sampling.system_prompt"  # no path, whatever it begins with
    return [(n, _cell(value if n == prompt else _value(value))) for n, value in depends]


def _value(value: Any) -> str | None:
    if isinstance(value, list):
        return ", ".join(_value(v) or "none" for v in value) or None
    return None if value is None else shown(str(value))


def _cell(text: str | None) -> str:
    """As it is in a table of Markdown: what could be read as marks is code."""
    if text is None:
        return "none"
    line = text.replace("|", "\\|").replace("\n", " ")
    return line if re.fullmatch(r"[\w ./:,+-]*", line) else f"`` {line} ``"
