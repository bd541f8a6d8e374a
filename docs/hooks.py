"""What mkdocs cannot read off the Markdown files: the config's fields, Parquet schemas, and formulas.

`<!-- fields SECTION -->` becomes a table of a config section's fields, `<!-- schema NAME -->` one of a
Parquet schema's columns, and LaTeX between dollars MathML, which browsers show without a script.
`cluster-files.md` and `changelog.md` are cluster/README.md and CHANGELOG.md, `notebook.md` is notebook.ipynb.
Exercised by `pytest tests/unit/test_docs.py`.
"""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
import latex2mathml.converter
import pyarrow as pa
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic.fields import FieldInfo

from lr_ray.config import Config
from lr_ray.config.effects import marks_of
from lr_ray.config.section import is_section, walk
from lr_ray.problems import PROBLEM
from lr_ray.run import schemas

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"cluster-files.md": "cluster/README.md", "changelog.md": "CHANGELOG.md"}
COLUMNS = {  # of all schemas; T steps (generated tokens) a trajectory
    "index": "number of the problem in the run, from 0",
    "problem_id": "id of the problem, stable across runs; in `rejected/` null where a row has none",
    "problem": "text of the problem",
    "answer": "expected answer, null where there is none; sampling by `contrast` never reads it",
    "metadata": "JSON of what else a registered source's row says, for its grader; null for other sources",
    "file": "file, URI or data set that the problem was read from",
    "row": "row of that file, from 1; the line number in JSONL",
    "prompt_token_ids": "token ids of the expert's chat template over system prompt and problem",
    "completion_token_ids": "T token ids that the expert generated greedily, EOS included when produced",
    "finish_reason": "`stop` or `length`; `imported` for sample files of the published code",
    "kl": "T values: KL(expert, amateur) of each step in nats, kept or not",
    "steps": "kept steps: `position` is an index into `completion_token_ids`, whose token the soft "
    "label replaces as the target; `weights` over `token_ids` sum to 1",
    "plausible": "T plausible sets, most probable token first, with both models' log-probabilities; "
    "-inf where the amateur has no such token",
    "steps_completed": "steps whose plausible set reached beyond `sampling.top_k` tokens, fetched whole",
    "expert_residual": "largest probability of the expert outside the exchanged tokens, over the steps",
    "amateur_residual": "the same for the amateur",
    "counts": "T values: how many entries of the two flat lists below belong to each step",
    "topk_token_ids": "exchanged tokens of all steps, one step after the other",
    "expert_logprobs": "the expert's log-probability of each of them",
    "error": "why the problem could not be decoded, else null",
    "reason": "why the problem was rejected",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page, source in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=re.sub(r"\((\.\./)?docs/", "(", text)))
    notebook = (ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8")
    files.append(File.generated(config, "notebook.md", content=notebook_page(notebook)))
    return files


def notebook_page(notebook: str) -> str:
    """A notebook as Markdown: its texts, its code, and what the code printed."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        said = ["".join(o.get("text") or o["data"]["text/plain"]) for o in cell["outputs"]]
        printed = re.sub(r"\x1b\[\d+m", "", "".join(said)).strip()
        parts += [f"```python\n{source}\n```", f"```text\n{printed}\n```"]
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills in the tables, and names files outside docs/ where the repository has links to them.

    Raises KeyError for a section that is not there, AttributeError for a schema.
    """
    markdown = re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", markdown)
    markdown = re.sub(r"<!-- fields (\w+) -->", lambda m: fields_table(m[1]), markdown)
    return re.sub(r"<!-- schema (\w+) -->", lambda m: schema_table(m[1]), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Arithmatex's spans and blocks of LaTeX as MathML."""
    inline, block = (
        re.compile(rf'<{tag} class="arithmatex">\\{left}(.*?)\\{right}</{tag}>', re.DOTALL)
        for tag, left, right in (("span", r"\(", r"\)"), ("div", r"\[", r"\]"))
    )
    return block.sub(_block, inline.sub(_inline, content))


def _inline(match: re.Match[str]) -> str:
    return str(latex2mathml.converter.convert(html.unescape(match[1])))


def _block(match: re.Match[str]) -> str:
    return str(latex2mathml.converter.convert(html.unescape(match[1]), display="block"))


def fields_table(section: str) -> str:
    """A Markdown table of a section's fields, or of one field that is no section.

    Its columns: name, type and bounds, default, what it affects, meaning.
    """
    head = ["field", "takes", "default", "affects", "meaning"]
    field = Config.model_fields[section]
    kind = field.annotation
    fields = walk(kind, f"{section}.") if is_section(kind) else [(section, field)]
    rows = [_row(name, field) for name, field in fields if not is_section(field.annotation)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _row(name: str, field: FieldInfo) -> list[str]:
    affected = dict.fromkeys(mark.effect for mark in marks_of(Config, name))
    default = "required" if field.is_required() else _code(_yaml(field.get_default()))
    takes, meaning = _takes(field.annotation, field.metadata), _cell(field.description or "")
    return [f"`{name}`", takes, default, ", ".join(affected), meaning]


def _takes(kind: Any, metadata: list[Any]) -> str:
    """Words, type and bounds of an annotation: `auto` or an integer, 1 to 1024."""
    if get_origin(kind) is Literal:
        return " or ".join(_code(str(word)) for word in get_args(kind))
    if hasattr(kind, "__metadata__"):  # Annotated
        return _takes(get_args(kind)[0], [*metadata, *kind.__metadata__])
    if get_origin(kind) in (list, dict):
        what = "list of" if get_origin(kind) is list else "mapping to"
        return f"{what} {_takes(get_args(kind)[-1], [])}"
    if get_args(kind):  # a union
        parts = [part for part in get_args(kind) if part is not type(None)]
        told = [_takes(part, metadata) for part in parts]
        return " or ".join([*told, *(["null"] if len(parts) < len(get_args(kind)) else [])])
    names = {int: "integer", float: "number", str: "text", bool: "`true` or `false`"}
    return ", ".join([names.get(kind, kind.__name__), *_bounds(kind, metadata)])


def _bounds(kind: Any, metadata: list[Any]) -> Iterator[str]:
    flat = [limit for m in metadata for limit in (m.metadata if isinstance(m, FieldInfo) else [m])]
    signs = {annotated_types.Ge: ("ge", "≥"), annotated_types.Gt: ("gt", ">")}
    signs |= {annotated_types.Le: ("le", "≤"), annotated_types.Lt: ("lt", "<")}
    for limit in flat:
        if kind in (int, float) and type(limit) in signs:
            name, sign = signs[type(limit)]
            yield f"{sign} {getattr(limit, name):g}"


def _yaml(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def schema_table(name: str) -> str:
    """A Markdown table of a schema's columns, with their types and meanings."""
    schema: pa.Schema = {"PROBLEM": PROBLEM}.get(name) or getattr(schemas, name)
    lines = ["| column | type | meaning |", "| --- | --- | --- |"]
    for column in schema:
        lines.append(f"| `{column.name}` | `{column.type}` | {COLUMNS[column.name]} |")
    return "\n".join(lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else '`""`'


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
