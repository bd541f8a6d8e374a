"""Section `models`: which two, and how their prompts are made."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

from lr_ray.config.effects import On, setting
from lr_ray.config.section import Section
from lr_ray.config.sections.common import CONTRAST


def _typed(value: Any) -> Any:
    """What is typed as true, false or a whole number, as that: templates take any text for true."""
    if not isinstance(value, bool | int | str):
        raise ValueError(f"{value!r:.100}: must be true, false, a whole number or text")
    if not isinstance(value, str):
        return value
    if value.lower() in ("yes", "no", "on", "off"):
        raise ValueError(f"{value!r}: must be true or false, or another text")
    known = {"true": True, "false": False}.get(value.lower(), value)
    return int(value) if re.fullmatch("-?(0|[1-9][0-9]{0,17})", value) else known


def _of_templates(values: dict[str, Any]) -> dict[str, Any]:
    """Refuses what rendering a template is told by the stages."""
    ours = {"messages", "add_generation_prompt", "continue_final_message", "tokenize", "tools"}
    if taken := sorted(ours & values.keys()):
        raise ValueError(f"{', '.join(taken)}: is not free to be set")
    return values


Variables = Annotated[
    dict[str, Annotated[bool | int | str, BeforeValidator(_typed)]], AfterValidator(_of_templates)
]


class Models(Section):
    expert: str = setting("trajectories", min_length=1)
    """Directory, Hugging Face id, or embedded:expert."""
    amateur: str = setting(On("scores", CONTRAST), min_length=1)
    """Directory, Hugging Face id, or embedded:amateur."""
    amateur_of_rounds: Literal["same", "before"] = setting("rounds", default="same")
    """Amateur of the rounds after the first: the same, or the expert of the round before."""
    special_tokens_may_differ: bool = setting(On("scores", CONTRAST), default=False)
    """Accept a pair whose special tokens (and no others) have different names."""
    chat_template_kwargs: Variables = setting("trajectories", "answers", default={})
    """Variables of the expert's chat template, in sampling, evaluation and serving, such as enable_thinking:
    false of Qwen3."""
