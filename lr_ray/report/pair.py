"""How two models' tokenizers fit, for people who are about to pair them.

Exercised by `pytest tests/unit/test_probe.py`.
"""

from typing import Any

from lr_ray.models.files import vocabulary_rows
from lr_ray.models.models import load_tokenizer, stop_token_ids

Pair = dict[str, Any]


def compatibility(expert: str, amateur: str) -> Pair:
    """Of two model directories: tokens of one id in both, and by role rows, special tokens, end tokens.

    `chat_template` is "same", "other" or "none" (the amateur has none); that of the expert is used for both.
    """
    paths = {"expert": expert, "amateur": amateur}
    tokenizers = {role: load_tokenizer(path) for role, path in paths.items()}
    ours, theirs = tokenizers.values()
    templates = [getattr(tokenizer, "chat_template", None) for tokenizer in (ours, theirs)]
    same = "same" if templates[0] == templates[1] else "other"
    return {
        "shared_tokens": len(ours.get_vocab().items() & theirs.get_vocab().items()),
        "vocabulary": {role: vocabulary_rows(path) for role, path in paths.items()},
        "special_tokens": {
            role: {name: str(token) for name, token in sorted(t.special_tokens_map.items())}
            for role, t in tokenizers.items()
        },
        "end_tokens": {
            role: tokenizers[role].convert_ids_to_tokens(stop_token_ids(path))
            for role, path in paths.items()
        },
        "chat_template": same if templates[1] else "none",
    }


def lines(found: Pair) -> list[tuple[str, str]]:
    """Label and text of each line."""
    rows, ends, special = found["vocabulary"], found["end_tokens"], found["special_tokens"]
    sizes = "" if len(set(rows.values())) == 1 else f"; rows: {_of_both(rows)}"
    differing = {
        name: {role: special[role].get(name, "none") for role in special}
        for name in sorted(special["expert"].keys() | special["amateur"].keys())
        if special["expert"].get(name) != special["amateur"].get(name)
    }
    names = "; ".join(f"{name}: {_of_both(tokens)}" for name, tokens in differing.items())
    end = " ".join(ends["expert"])
    if set(ends["expert"]) != set(ends["amateur"]):
        end = _of_both({role: " ".join(tokens) for role, tokens in ends.items()})
        end += "; the expert's end a trajectory, and that step may be kept for its form alone"
    template = {
        "same": "the same",
        "other": "the amateur has another; the expert's is used for both",
        "none": "the amateur has none; the expert's is used for both",
    }[found["chat_template"]]
    return [
        ("tokens", f"{found['shared_tokens']} with the same id in both{sizes}"),
        ("special", names or "the same"),
        ("end", end),
        ("template", template),
    ]


def _of_both(values: dict[str, Any]) -> str:
    return ", ".join(f"{role} {value}" for role, value in values.items())
