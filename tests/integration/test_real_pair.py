"""The real pair's maker, on a GGUF file of the embedded pair's weights and a tokenizer of Qwen2's kind."""

import hashlib
import json
import zipfile

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lr_ray.embedded import expert_path
from lr_ray.models.models import stop_token_ids
from recipes.real_pair import make
from recipes.wheels import Parts, join

gguf = pytest.importorskip("gguf", reason="needs requirements/models.txt")

NAMES = {  # of a layer's tensors
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
OUTER = {"model.embed_tokens": "output", "model.norm": "output_norm"}


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(expert_path(), dtype=torch.float32)


@pytest.fixture(scope="module")
def tokens() -> list[str]:
    """Bytes, two merges, two end tokens, one that a user defined, and one that fills the matrix up."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    return [*letters, "ab", "12", "<|endoftext|>", "<|im_end|>", "<tool_call>", "[PAD]"]


@pytest.fixture(scope="module")
def file(model, tokens, tmp_path_factory):
    path, config = tmp_path_factory.mktemp("gguf") / "expert.gguf", model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    kind = gguf.TokenType
    rows = tokens + [f"[FILL{i}]" for i in range(config.vocab_size - len(tokens))]
    special = {"<|endoftext|>": kind.CONTROL, "<|im_end|>": kind.CONTROL}
    special |= {"<tool_call>": kind.USER_DEFINED}
    used = tokens[:-1]
    kinds = [special.get(t, kind.NORMAL if t in used else kind.UNUSED) for t in rows]
    writer.add_token_list(rows)
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b", "1 2"])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_chat_template("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    for name, weight in model.state_dict().items():
        stem, _, kind_ = name.rpartition(".")
        if stem in OUTER:
            writer.add_tensor(f"{OUTER[stem]}.{kind_}", weight.numpy())
        elif stem != "lm_head":
            _, _, layer, inner = stem.split(".", 3)
            writer.add_tensor(f"blk.{layer}.{NAMES[inner]}.{kind_}", weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def converted(file, tmp_path_factory):
    target = tmp_path_factory.mktemp("converted") / "expert"
    make.convert(file, target)
    return target


def test_the_converted_model_computes_what_the_file_holds(model, tokens, converted):
    found = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)
    token_ids = torch.arange(200)[None]
    with torch.inference_mode():
        for weight in model.parameters():  # not the rotary frequencies, which stay float32
            weight.copy_(weight.bfloat16())
        expected = model(token_ids).logits
        torch.testing.assert_close(found(token_ids).logits, expected, rtol=0, atol=0)
    said = json.loads((converted / "config.json").read_text())
    assert (said["dtype"], said["tie_word_embeddings"]) == ("bfloat16", True)
    ends = [tokens.index("<|im_end|>"), *sorted(make.END_TOKEN_IDS)]
    assert stop_token_ids(str(converted)) == ends


def test_the_converted_tokenizer_cuts_words_and_digits_as_qwen2_does(tokens, converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert len(tokenizer) == len(tokens) - 1  # what fills the matrix up is no token
    assert tokenizer.tokenize("ab 12") == ["ab", "Ġ", "1", "2"]  # each digit by itself
    assert tokenizer.tokenize("<tool_call>ab<|im_end|>") == ["<tool_call>", "ab", "<|im_end|>"]
    ids = tokenizer("ab<tool_call><|im_end|>").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab<tool_call>"
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.decode(tokenizer("e\u0301").input_ids) == "\u00e9"  # NFC


def test_parts_of_wheels_are_joined_by_their_numbers_and_checked(tmp_path):
    content = [bytes([i]) * 100 for i in range(11)]
    for i, part in enumerate(content, start=1):
        with zipfile.ZipFile(tmp_path / f"parts_part{i}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"parts_part{i}/__init__.py", "")
            wheel.writestr(f"parts_part{i}/data/part{i:02}.bin", part)
    whole = b"".join(content)
    parts = Parts("parts_part", hashlib.sha256(whole).hexdigest())
    assert join(tmp_path, parts, "expert.gguf").read_bytes() == whole
    (tmp_path / "parts_part7-1.0-py3-none-any.whl").unlink()
    (tmp_path / "expert.gguf").unlink()
    with pytest.raises(OSError, match=r"SHA-256 .*, not .*; remove"):
        join(tmp_path, parts, "expert.gguf")
    assert not (tmp_path / "expert.gguf").exists()
