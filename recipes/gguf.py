"""GGUF files of Llama, Qwen2 and Gemma 3 models to Hugging Face directories in bfloat16.

Needs the package gguf (requirements/models.txt). Quantised weights are dequantised and rounded to
bfloat16: near the published ones, not equal to them.
Exercised by `pytest tests/integration/test_smollm2.py tests/integration/test_real_pair.py`, the last by
`pytest tests/integration/test_scorer.py -m long`.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

# What GGUF calls the fields of a config, after the architecture's name.
_FIELDS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
}


def open_file(file: Path) -> Any:
    """The file's reader. Raises ImportError where gguf is not installed."""
    from gguf import GGUFReader

    return GGUFReader(file)


def field(reader: Any, name: str) -> Any:
    """A metadata field's value."""
    return reader.get_field(name).contents()


def causal_model(
    reader: Any,
    architecture: str,
    end_token_ids: list[int] | None = None,
    model_type: str | None = None,
    **more: Any,
) -> Any:
    """The file's model in bfloat16, with tied embeddings and greedy decoding.

    `architecture`: llama, qwen2 or gemma3; `model_type`: what transformers calls it, if otherwise.
    `end_token_ids` end an answer (None: the file's one end token), `more` are fields of the config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    def of_model(name: str) -> Any:
        return field(reader, f"{architecture}.{name}")

    names = (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    special = {
        f"{ours}_token_id": field(reader, f"tokenizer.ggml.{theirs}_token_id")
        for ours, theirs in names
    }
    rope = {"rope_type": "default", "rope_theta": of_model("rope.freq_base")}
    config = AutoConfig.for_model(
        model_type or architecture,
        vocab_size=len(field(reader, "tokenizer.ggml.tokens")),
        **{ours: of_model(theirs) for ours, theirs in _FIELDS.items()},
        rms_norm_eps=float(f"{of_model('attention.layer_norm_rms_epsilon'):.6g}"),  # a float32
        tie_word_embeddings=True,
        dtype="bfloat16",
        **({"rope_parameters": rope} | special | more),
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(_weights(reader, architecture, model), assign=True)
    model.tie_weights()
    ends = {"eos_token_id": end_token_ids} if end_token_ids else {}
    model.generation_config = GenerationConfig(do_sample=False, **(special | ends))
    return model


def _weights(reader: Any, architecture: str, model: Any) -> dict[str, Any]:
    import torch
    from gguf import MODEL_ARCH, dequantize, get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH[architecture.upper()], model.config.num_hidden_layers)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    # Files quantise the output matrix finer than the embedding that it is tied to.
    embedding = "output" if "output.weight" in tensors else "token_embd"
    weights = {}
    for name, expected in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        stem, _, kind = name.rpartition(".")
        stem = embedding if stem == "model.embed_tokens" else names.get_name(stem)
        tensor = tensors[f"{stem}.{kind}"]
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            # GGUF interleaves the two halves that transformers rotates against each other.
            size = model.config.hidden_size
            pairs = weight.view(-1, model.config.head_dim // 2, 2, size)
            weight = pairs.transpose(1, 2).reshape(weight.shape)
        if architecture == "gemma3" and name.endswith("norm.weight"):
            weight -= 1  # which transformers adds when it computes
        if weight.shape != expected.shape:
            raise ValueError(f"{name}: shape {list(weight.shape)}, not {list(expected.shape)}")
        weights[name] = weight.to(torch.bfloat16)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights


def byte_level_tokenizer(
    reader: Any, before_bytes: list[Any], normalizer: Any = None, gpt2_words: bool = False
) -> Any:
    """The file's byte-level BPE, with its control tokens, special tokens and chat template.

    `before_bytes`: pre-tokenizers that cut a text first; with `gpt2_words` it is then cut as GPT-2's.
    """
    from gguf import TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def of_tokens(name: str) -> Any:
        return field(reader, f"tokenizer.ggml.{name}")

    tokens, kinds = of_tokens("tokens"), of_tokens("token_type")
    used = [kind != TokenType.UNUSED for kind in kinds]  # the others fill the matrix up
    vocabulary = {token: i for i, token in enumerate(tokens) if used[i]}
    merges = [tuple(merge.split(" ")) for merge in of_tokens("merges")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2_words)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before_bytes, as_bytes])
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    added = {
        TokenType.CONTROL: tokenizer.add_special_tokens,
        TokenType.USER_DEFINED: tokenizer.add_tokens,
    }
    for kind, add in added.items():
        special = kind == TokenType.CONTROL
        of_kind = [t for t, k in zip(tokens, kinds, strict=True) if k == kind]
        add([AddedToken(t, normalized=False, special=special) for t in of_kind])
    names = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    named = {
        f"{ours}_token": tokens[of_tokens(f"{theirs}_token_id")]
        for ours, theirs in names.items()
        if reader.get_field(f"tokenizer.ggml.{theirs}_token_id") is not None
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=field(reader, "tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **named,
    )


def write(model: Any, tokenizer: Any, target: Path) -> None:
    """A complete directory, made beside its place and renamed there; None: without a tokenizer."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=target.parent) as scratch:
        fresh = Path(scratch, target.name)
        model.save_pretrained(fresh)
        if tokenizer is not None:
            tokenizer.save_pretrained(fresh)
        (fresh / "model.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone
        try:
            os.rename(fresh, target)
        except OSError:
            if not target.exists():  # else another process has just made it
                raise
