"""Model directories and their tokenizers: what can be checked before an engine starts.

Loads transformers on first use, never torch weights. Exercised by `pytest tests/unit/test_models.py`.
"""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lr_ray import embedded
from lr_ray.config import Models, Sampling, Serving
from lr_ray.console import fetching
from lr_ray.errors import UserError, counted, reason
from lr_ray.models.adapters import check_adapter, is_adapter, with_adapters
from lr_ray.models.architectures import check_runs, check_scores
from lr_ray.models.files import MISTRAL, context_length, read_object, vocabulary_rows
from lr_ray.models.whole import check_files, check_tokenizer
from lr_ray.run.store import Run, read_asked

# Beside a merged model: a sum over all of its trained weights. A fingerprint reads parts of large files,
# which may be the base's; this one is whole, and another for each.
TRAINED_WEIGHTS = "trained_weights.json"
# The files beside the weights that make a model directory: config, tokenizer, chat template.
COMPANIONS = ("*.json", "*.jinja", "*.txt", "*.model")
_FILES = [*COMPANIONS, "*.safetensors"]

_SAMPLED_BYTES = 1 << 20


def resolve_model(reference: str, field: str) -> str:
    """Local directory of a model reference; a hub id is downloaded first. Raises UserError naming `field`."""
    if reference.startswith("embedded:"):
        known = {"embedded:expert": embedded.expert_path, "embedded:amateur": embedded.amateur_path}
        if reference not in known:
            raise UserError(f"{field}: {reference} is not one of {', '.join(known)}")
        return str(known[reference]())
    path = Path(os.path.expanduser(reference))
    if not os.path.isdir(path):  # not Path's, which raises for a name that is too long
        if path.is_absolute() or reference.startswith((".", "~")) or reference.count("/") != 1:
            raise UserError(f"{field}: {reference}: no such directory (nor a Hugging Face id)")
        return _download(reference, field)
    check_files(path, f"{field}: {reference}")
    return str(path.resolve())


def is_here(reference: str) -> bool:
    """Whether a model reference is of this machine, and needs no hub."""
    return reference.startswith("embedded:") or os.path.isdir(os.path.expanduser(reference))


def resolve_served(reference: str, field: str) -> str:
    """As `resolve_model`; a directory with a LoRA adapter is one too, see `adapters`."""
    path = Path(os.path.expanduser(reference))
    if is_adapter(str(path)):
        check_adapter(path, f"{field}: {reference}")
        return str(path.resolve())
    return resolve_model(reference, field)


def resolve_all(references: Mapping[str, str]) -> dict[str, str]:
    """`resolve_served` of what is served together, by name.

    Raises UserError too for a run's adapter beside another model than the one it was trained on, on which it
    would answer like any other.
    """
    models = {name: resolve_served(path, f"models.{name}") for name, path in references.items()}
    whole, adapters = with_adapters(models)
    for name, path in adapters.items():
        (base,) = whole.values()
        trained_on = _trained_on(path)
        if trained_on and trained_on.get("fingerprint") not in (None, fingerprint(base)):
            raise UserError(
                f"models.{name}: {references[name]}: was trained on another model than {base}; serve it "
                f"beside that one, {trained_on.get('path')}"
            )
    return models


def _trained_on(adapter: str) -> dict[str, Any] | None:
    """What the run around an adapter says of its expert; None where no run is."""
    with contextlib.suppress(UserError):
        models: dict[str, Any] = read_asked(Run(os.path.dirname(adapter))).get("models", {})
        return models.get("expert")
    return None


def _download(reference: str, field: str) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    try:
        folder = repo_folder_name(repo_id=reference, repo_type="model")
        with fetching(reference, Path(HF_HUB_CACHE, folder, "blobs")):
            path = snapshot_download(reference, allow_patterns=_FILES, ignore_patterns=MISTRAL)
    except Exception as error:  # the hub raises its own, requests' and httpx' kinds
        raise UserError(
            f"{field}: {reference}: no such directory, and not to be had from the hub: {reason(error)}"
        ) from None
    check_files(Path(path), f"{field}: {reference} ({path})")
    return path


@cache
def load_tokenizer(path: str) -> Any:
    """The Hugging Face tokenizer of a model directory. Raises UserError when it cannot be loaded."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoTokenizer

    check_tokenizer(Path(path), path)
    try:
        # Not None, at which transformers asks on the terminal whether a model's own code may run.
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        tokenizer("1+1")  # at which it fails where tokenizer_config.json has values of other kinds
        return tokenizer
    except Exception as error:  # tokenizers and transformers raise bare ones
        what = "config.json" if isinstance(error, StrictDataclassError) else "tokenizer"
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: {what} cannot be loaded: {said}") from None


def stop_token_ids(path: str) -> list[int]:
    """Ids that end a completion: EOS tokens of the generation config and the tokenizer. Raises UserError."""
    file = Path(path, "generation_config.json")
    eos = read_object(file, path).get("eos_token_id") if file.is_file() else None
    given = [i for i in (eos if isinstance(eos, list) else [eos]) if i is not None]
    if not all(type(i) is int and i >= 0 for i in given):
        said = f"eos_token_id = {eos!r:.100}: must be token ids"
        raise UserError(f"{path}: generation_config.json: {said}")
    return sorted({*given, load_tokenizer(path).eos_token_id} - {None})


def check_stops(path: str) -> None:
    """Raises UserError where a completion is to end with a token that the model lacks."""
    rows, last = vocabulary_rows(path), max(stop_token_ids(path), default=0)
    if last >= rows:
        said = f"eos_token_id = {last}: must be token ids, which are below {rows}"
        raise UserError(f"{path}: generation_config.json: {said}")


def turn_end_id(path: str) -> int | None:
    """Id of the token that ends an answer in the chat template, None where it shows none."""
    tokenizer, answer = load_tokenizer(path), "The answer is 7."
    if not getattr(tokenizer, "chat_template", None):
        return None
    turns = [{"role": "user", "content": "3+4?"}, {"role": "assistant", "content": answer}]
    try:
        after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(answer)[2]
    except Exception:  # jinja's, transformers' and whatever a template does
        return None
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.get_added_vocab().values())
    return next((i for i in ids if i in special), None)


def render_prompt(
    tokenizer: Any,
    problem: str,
    system_prompt: str | None,
    variables: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of the chat template, with its `variables`, over the optional system turn and the problem."""
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    messages = [*system, {"role": "user", "content": problem}]
    encoding = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, **(variables or {})
    )
    return list(encoding["input_ids"])


def engine_room(expert: str, amateur: str | None, sampling: Sampling) -> int:
    """Tokens of prompt and completion that the engines of sampling have room for."""
    return min(sampling.room, *map(context_length, (expert, amateur or expert)))


def check_room(expert: str, amateur: str | None, sampling: Sampling) -> None:
    """Raises UserError when a completion, or sampling.max_model_len, is beyond the models' context."""
    room = min(map(context_length, (expert, amateur or expert)))
    field, tokens = sampling.limit
    who = "expert and amateur both read" if amateur else "the expert reads"
    if tokens >= room:
        raise UserError(f"{field} = {tokens} leaves no room for a prompt; {who} {room} tokens")
    if sampling.max_model_len and sampling.max_model_len > room:
        raise UserError(
            f"sampling.max_model_len = {sampling.max_model_len}: {who} {room} tokens; give at most "
            f"{room}"
        )


def fits_context(path: str, max_model_len: int, name: str) -> None:
    """Raises UserError when serving.max_model_len is more than the model reads."""
    room = context_length(path)
    if max_model_len > room:
        raise UserError(
            f"serving.max_model_len = {max_model_len} is more than {name} reads; give at most {room}"
        )


def fitting(serving: Serving, models: Mapping[str, str]) -> Serving:
    """`serving` with a max_model_len that these whole models, by name, read, where nobody has set one.

    Raises UserError when the one that was set is more than a model reads, and for a model that vLLM does
    not run.
    """
    for name, path in models.items():
        check_runs(path, f"{name}: {path}")
    if "max_model_len" not in serving.model_fields_set:
        room = min(serving.max_model_len, *map(context_length, models.values()))
        return serving.model_copy(update={"max_model_len": room})
    for name, path in models.items():
        fits_context(path, serving.max_model_len, name)
    return serving


def check_pair(expert: str, amateur: str, models: Models) -> None:
    """Raises UserError unless both models read the same ids as the same text and can be run."""
    check_scores(amateur, f"models.amateur: {models.amateur}")
    ours, theirs = load_tokenizer(expert), load_tokenizer(amateur)
    differing = dict(ours.get_vocab().items() ^ theirs.get_vocab().items())
    if models.special_tokens_may_differ:
        special = set(ours.get_added_vocab()) | set(theirs.get_added_vocab())
        differing = {token: i for token, i in differing.items() if token not in special}
    if differing:
        shown = ", ".join(map(repr, sorted(differing, key=differing.__getitem__)[:5]))
        raise UserError(
            f"models.expert and models.amateur have different tokenizers: "
            f"{counted(len(differing), 'token')} differ{'s' * (len(differing) == 1)} ({shown}"
            f"{', ...' if len(differing) > 5 else ''}); "
            "the amateur must share the expert's token-to-id map"
        )


def facts_of(reference: str, path: str) -> dict[str, Any]:
    """What run.json says of the model of a reference, whose directory is `path`."""
    found: dict[str, Any] = {"path": reference, "fingerprint": fingerprint(path)}
    # From elsewhere a relative path reads like an id of the hub.
    relative = os.path.isdir(reference) and not os.path.isabs(reference)
    return found | {"directory": True} if relative else found


def fingerprint(path: str) -> str:
    """sha256 (hex, first 16) over names, sizes and sampled blocks of a model directory's files."""
    digest = hashlib.sha256()
    files = {f for pattern in _FILES for f in Path(path).glob(pattern)}
    for file in sorted(files):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            for start in sorted({0, size // 2, max(0, size - _SAMPLED_BYTES)}):
                stream.seek(start)
                digest.update(stream.read(_SAMPLED_BYTES))
    return digest.hexdigest()[:16]
