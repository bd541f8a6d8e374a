"""Parameters, caches and LoRA sizes of architectures, against known models and weights on disk."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from lr_ray import embedded
from lr_ray.config import Place, Serving
from lr_ray.errors import UserError
from lr_ray.placement.arrange import for_serving
from lr_ray.placement.cards import pretended
from lr_ray.placement.sizes import Model, describe, find_model
from lr_ray.placement.ways import splits

ROOT = Path(__file__).parents[3]
SMOLLM2 = ROOT / ".cache/smollm2/expert"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-Math-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-Math-7B", 7_615_616_512),
        ("Qwen/Qwen2.5-Math-72B", 72_706_203_648),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1_777_088_000),
    ],
)
def test_parameters_of_known_models(name, parameters):
    model = find_model(name, "models.expert")
    assert isinstance(model, Model)
    assert model.parameters == parameters


@pytest.mark.parametrize("folder", [embedded.expert_path(), embedded.amateur_path(), SMOLLM2])
def test_parameters_are_those_of_the_weights_on_disk(folder):
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pytest.skip(f"{folder.parent.name} is not here")
    total = 0
    for file in files:
        with safe_open(file, "np") as weights:
            for name in weights.keys():  # noqa: SIM118
                count = 1
                for size in weights.get_slice(name).get_shape():
                    count *= size
                total += count
    model = find_model(str(folder), "models.expert")
    assert isinstance(model, Model)
    assert model.parameters == total


def test_biases_norms_and_head_size_of_other_kinds():
    base = {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 16, "vocab_size": 10, "max_position_embeddings": 32, "model_type": "llama",
    }  # fmt: skip
    plain = describe(base)  # q, o 8x8; k, v 8x4; MLP 3 of 8x16; norms 3 of 8; two tables
    assert plain.parameters == 2 * 64 + 2 * 32 + 3 * 128 + 3 * 8 + 2 * 80
    assert plain.cache == 2 * 4
    biased = describe({**base, "attention_bias": True, "mlp_bias": True})
    assert biased.parameters - plain.parameters == (8 + 4 + 4 + 8) + (16 + 16 + 8)
    assert describe({**base, "model_type": "qwen2"}).parameters - plain.parameters == 8 + 4 + 4
    assert describe({**base, "model_type": "qwen3"}).parameters - plain.parameters == 2 * 4
    wide = describe({**base, "head_dim": 8})
    assert wide.parameters - plain.parameters == 2 * 64 + 2 * 32


@pytest.mark.parametrize("sharded", [False, True])
def test_quantised_weights_take_what_their_files_have(tmp_path, sharded):
    shape = {
        "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064,
        "tie_word_embeddings": False, "max_position_embeddings": 4096,
    }  # fmt: skip
    awq = shape | {"quantization_config": {"quant_method": "awq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(awq))
    names = ["a.safetensors", "b.safetensors"] if sharded else ["model.safetensors"]
    if sharded:
        index = {"weight_map": {"x": names[0], "y": names[1]}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "not here" in find_model(str(tmp_path), "models.expert")
    for name in names:
        with (tmp_path / name).open("wb") as file:
            file.truncate(5_580_000_000 // len(names))  # a sparse file
    model = find_model(str(tmp_path), "models.expert")
    assert model.parameters == 7_615_616_512
    assert model.weights(2) == 5_580_000_000
    # 15.2 GB of bfloat16 have no room there.
    place = for_serving(Serving(), Place(), model, 1, pretended(1, 16e9))
    assert place.gpus == 1
    with pytest.raises(UserError, match="1 models do not fit on 1 GPU of 16 GB"):
        for_serving(Serving(), Place(), describe(shape), 1, pretended(1, 16e9))


TINY = {
    "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
KINDS = [
    ("qwen2", {}), ("qwen3", {"head_dim": 16}), ("llama", {"attention_bias": True}), ("mistral", {}),
    ("phi3", {}), ("gemma", {"head_dim": 16}), ("gemma", {}), ("gemma2", {"head_dim": 16}),
    ("gemma2", {"tie_word_embeddings": False}), ("gemma3_text", {"head_dim": 16}),
    ("mixtral", {"num_local_experts": 6, "num_experts_per_tok": 2}),
    ("qwen3_moe", EXPERTS | {"num_experts": 6}),
    ("qwen3_moe", EXPERTS | {"num_experts": 6, "mlp_only_layers": [1], "decoder_sparse_step": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "more"), KINDS)
def test_parameters_are_those_that_transformers_makes(kind, more):
    config = AutoConfig.for_model(kind, **TINY, **more)
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config)
    written = TINY | more | {"model_type": kind}  # as a file is that leaves defaults out
    for found in (describe(config.to_dict()), describe(written)):
        assert found.parameters == sum(p.numel() for p in made.parameters())
        for name, size in found.lora.items():
            layers = [m for n, m in made.named_modules() if n.endswith(f".{name}")]
            assert size == sum(m.in_features + m.out_features for m in layers)
        size = getattr(made.model.layers[0].self_attn, "head_dim", None)
        assert found.head_dim == size
        assert found.cache == 2 * 5 * 2 * size


def test_a_token_takes_few_of_the_experts_and_a_split_divides_each():
    plain = {**TINY, "model_type": "qwen3_moe", "num_experts": 6, "head_dim": 16, **EXPERTS}
    mixed = describe(plain)
    assert (mixed.intermediate, mixed.columns) == (2 * 24, 24)
    partly = describe(plain | {"mlp_only_layers": [0], "intermediate_size": 480})
    assert (partly.intermediate, partly.columns) == (480, 24)
    rows = {"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 6400}
    assert splits(describe(plain | rows), 16) == [1, 2, 4, 8]  # 24 columns are no multiple of 16


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_attention_heads", 0, "num_attention_heads = 0: must be a whole number above 0"),
        ("num_attention_heads", 97, "num_attention_heads = 97: must be at most hidden_size, 96"),
        ("num_attention_heads", "3", "num_attention_heads = '3': must be a whole number above 0"),
        ("num_key_value_heads", 0, "num_key_value_heads = 0: must be a whole number above 0"),
        ("head_dim", 0, "head_dim = 0: must be a whole number above 0"),
        ("hidden_size", -96, "hidden_size = -96: must be a whole number above 0"),
        ("num_hidden_layers", 4.5, "num_hidden_layers = 4.5: must be a whole number above 0"),
        ("max_position_embeddings", True, "max_position_embeddings = True: must be a whole number"),
    ],
)
def test_a_number_that_no_model_has_is_named(tmp_path, field, value, said):
    config = json.loads((embedded.expert_path() / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(UserError) as error:
        find_model(str(tmp_path), "models.expert")
    assert str(error.value).startswith(f"models.expert: {tmp_path}/config.json: no usable")
    assert said in str(error.value)


@pytest.mark.parametrize("field", ["head_dim", "num_key_value_heads"])
def test_a_null_is_a_field_that_is_not_there(tmp_path, field):
    config = json.loads((embedded.expert_path() / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: None}))
    assert find_model(str(tmp_path), "a") == find_model("embedded:expert", "a")


@pytest.mark.parametrize("fetch", [False, True])
def test_the_home_of_nobody_is_not_here(fetch):
    said = find_model("~nosuchuser/x", "models.expert", fetch)
    assert said.startswith("models.expert: ~nosuchuser/x/config.json is not here")


def test_the_config_of_a_model_in_the_hubs_cache_is_read_without_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert "is not here" in find_model("org/fetched", "models.expert")
    commit, there = "a" * 40, tmp_path / "models--org--fetched"
    for name, text in {
        "refs/main": commit,
        f"snapshots/{commit}/config.json": (embedded.expert_path() / "config.json").read_text(),
    }.items():
        (there / name).parent.mkdir(parents=True)
        (there / name).write_text(text)
    found = find_model("org/fetched", "models.expert")
    assert found == find_model("embedded:expert", "models.expert")


def test_unusable_architectures(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "gpt2"}')
    assert "cannot count parameters of gpt2" in find_model(str(tmp_path), "models.expert")
    for text in ('{"model_type": "qwen2"}', "[", "[]", "[" * 100_000):
        file.write_text(text)
        with pytest.raises(UserError, match=r"models\.expert: .*config\.json: no usable") as error:
            find_model(str(tmp_path), "models.expert")
        assert "\n" not in str(error.value)
