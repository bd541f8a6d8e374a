"""Tokens as text that a person can read, also where a token is a part of a character.

Exercised by `pytest tests/unit/page`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from lr_ray.models.models import load_tokenizer

_BROKEN = "\ufffd"  # what decoding gives for bytes that are no whole character
_SPACE = "\u2581"  # how SentencePiece writes the space before a word


class Words:
    """Text of token ids by the tokenizer of a model directory."""

    def __init__(self, path: str) -> None:
        self._tokenizer = load_tokenizer(path)
        self.alone = cache(self._alone)

    def text(self, ids: Sequence[int]) -> str:
        """All of it, special tokens included."""
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return str(self._tokenizer.decode(list(ids), **options))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Text of each token in turn; the tokens before the last one of a character have none."""
        found, before, read = [], 0, 0
        for end in range(1, len(ids) + 1):
            known, now = self.text(ids[before:read]), self.text(ids[before:end])
            # A token more may change how the ones before are written, so one is decoded along.
            whole = not now.endswith(_BROKEN) or end - read > 4
            found.append(now[len(known) :] if whole else "")
            if whole:
                before, read = read, end
        return found

    def _alone(self, token_id: int) -> str:
        """One token, out of context."""
        text, written = self.text([token_id]), self._tokenizer.convert_ids_to_tokens(token_id)
        if _BROKEN in text or not text:
            return f"[part of a character, token {token_id}]"
        return f" {text}" if str(written).startswith(_SPACE) and not text.startswith(" ") else text

    def chat(self, turns: Sequence[Mapping[str, str]], variables: Mapping[str, Any]) -> str:
        """A conversation by the chat template; one whose last turn is the model's is to be gone on with."""
        begun = turns[-1]["role"] == "assistant"
        options = {"add_generation_prompt": not begun, "continue_final_message": begun, **variables}
        return str(self._tokenizer.apply_chat_template(list(turns), tokenize=False, **options))
