"""Weights that lack a tensor, or have one of another shape, are named before a model runs without them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lr_ray.embedded import amateur_path, expert_path
from lr_ray.errors import UserError
from lr_ray.models.files import INDEX
from lr_ray.models.models import resolve_model

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SIZES = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "vocab_size": 590,
         "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}  # fmt: skip


@pytest.fixture
def model(tmp_path) -> Path:
    return shutil.copytree(expert_path(), tmp_path / "model")


def edit(model: Path, **changes) -> None:
    """Sets fields of config.json, and takes out those that are set to None."""
    config = json.loads((model / "config.json").read_text()) | changes
    kept = {name: value for name, value in config.items() if value is not None}
    (model / "config.json").write_text(json.dumps(kept))


def change(model: Path, new) -> None:
    """Writes what `new` makes of the weights."""
    file = model / "model.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in new(load_file(file)).items()}, file)


def refusal(model: Path) -> str:
    with pytest.raises(UserError) as error:
        resolve_model(str(model), "models.expert")
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"models.expert: {model}: ")


def without(*names: str):
    return lambda weights: {k: v for k, v in weights.items() if not k.endswith(names)}


@pytest.mark.parametrize(
    "name",
    [
        "model.norm.weight",
        EMBEDDING,
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.3.self_attn.k_proj.bias",
    ],
)
def test_a_missing_tensor_is_named(model, name):
    change(model, without(name))
    said = (
        f"the weights have no {name}, which Qwen2ForCausalLM has; copy all of the model's weights"
    )
    assert refusal(model) == said


@pytest.mark.parametrize(("old", "new"), [("model.", "transformer."), ("model.", "")])
def test_weights_under_another_prefix_are_named(model, old, new):
    change(model, lambda weights: {k.replace(old, new, 1): v for k, v in weights.items()})
    assert f"the weights have no {EMBEDDING}" in refusal(model)


def test_weights_under_other_names_are_named(model):
    change(model, lambda weights: {k.replace("q_proj", "qkv_proj"): v for k, v in weights.items()})
    assert "the weights have no model.layers.0.self_attn.q_proj.weight" in refusal(model)


def test_a_tensor_that_index_and_shard_both_lack_is_named(model):
    weights = without("layernorm.weight")(load_file(model / "model.safetensors"))
    (model / "model.safetensors").unlink()
    name = "model-00001-of-00001.safetensors"
    save_file(weights, model / name)
    (model / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(weights, name)}))
    assert "no model.layers.0.input_layernorm.weight" in refusal(model)


def test_a_tensor_of_another_shape_is_named(model):
    name = "model.layers.2.mlp.up_proj.weight"
    change(model, lambda weights: weights | {name: weights[name][:100]})
    assert f"{name} is 100 x 96, and by config.json 288 x 96; copy" in refusal(model)


@pytest.mark.parametrize(
    ("tied", "said"),
    [(False, "is false"), (None, "is not in config.json, which means false")],
)
def test_a_missing_output_layer_is_named(model, tied, said):
    edit(model, tie_word_embeddings=tied)
    said = (
        f"the weights have no {HEAD}, and tie_word_embeddings {said}; set it to true if the embed"
    )
    assert refusal(model).startswith(said)


def test_so_it_is_where_nothing_else_is_known_of_the_architecture(model):
    kind = {"architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe"}
    edit(model, **kind, tie_word_embeddings=False)
    assert "no output layer, as lm_head.weight, and tie_word_embeddings is false" in refusal(model)
    for tied, name in ((None, "x"), (True, "x"), (False, HEAD), (False, "output.qweight")):
        edit(model, tie_word_embeddings=tied)
        change(model, lambda weights, name=name: weights | {name: np.zeros((1, 1))})
        assert resolve_model(str(model), "models.expert") == str(model)
        change(model, without(name))


def test_an_output_layer_with_fewer_rows_is_named(model):
    edit(model, tie_word_embeddings=False)
    change(model, lambda weights: weights | {HEAD: weights[EMBEDDING][:500]})
    assert f"{HEAD} is 500 x 96, and by config.json 590 x 96" in refusal(model)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_tied_output_layer_must_be_the_embedding(model, sharded):
    edit(model, tie_word_embeddings=True)
    change(model, lambda weights: weights | {HEAD: weights[EMBEDDING]})
    assert resolve_model(str(model), "models.expert") == str(model)
    weights = load_file(model / "model.safetensors")
    for other in (
        weights[EMBEDDING] * 0,
        weights[EMBEDDING][:500],
        weights[EMBEDDING].astype("float16"),
    ):
        (model / "model.safetensors").unlink(missing_ok=True)
        parts = {"model.safetensors": weights | {HEAD: other}}
        if sharded:
            parts = {"a.safetensors": without(HEAD)(weights), "b.safetensors": {HEAD: other}}
            placed = {k: name for name, part in parts.items() for k in part}
            (model / INDEX).write_text(json.dumps({"weight_map": placed}))
        for name, part in parts.items():
            save_file({k: np.ascontiguousarray(v) for k, v in part.items()}, model / name)
        assert f"config.json ties {HEAD} to {EMBEDDING}" in refusal(model)


@pytest.mark.parametrize(
    "more",
    [
        {"model_type": "qwen2", "tie_word_embeddings": True},
        {"model_type": "qwen2", "tie_word_embeddings": False},
        {"model_type": "qwen3", "head_dim": 8, "attention_bias": False},
        {"model_type": "qwen3", "head_dim": 8, "attention_bias": True},
        {"model_type": "llama", "head_dim": 4, "attention_bias": False, "mlp_bias": False},
        {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        {"model_type": "mistral"},
        {"model_type": "gemma", "head_dim": 8},
        {"model_type": "gemma2", "head_dim": 8, "attention_bias": True},
        {"model_type": "gemma3_text", "head_dim": 8},
    ],
    ids=str,
)  # fmt: skip
def test_what_transformers_makes_is_whole_and_each_tensor_of_it_is_needed(model, more):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**SIZES, **more, pad_token_id=0)
        )
    tied = made.config.tie_word_embeddings
    shapes = {n: tuple(w.shape) for n, w in made.state_dict().items() if not (tied and n == HEAD)}
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    config = SIZES | more | {"architectures": [type(made).__name__]}
    (model / "config.json").write_text(json.dumps(config))
    save_file(weights, model / "model.safetensors")
    assert resolve_model(str(model), "models.expert") == str(model)
    for name in weights:
        if "layers.0" not in name:  # whose absence is that of the layer, or is the same
            save_file({k: v for k, v in weights.items() if k != name}, model / "model.safetensors")
            assert f"no {name}, " in refusal(model)


@pytest.mark.parametrize("path", [expert_path(), amateur_path()])
def test_the_embedded_models_are_whole(path):
    assert resolve_model(str(path), "models.expert") == str(path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.1.self_attn.q_proj.bias", {"model_type": "mistral"}),
        ("model.layers.0.self_attn.o_proj.bias", {"model_type": "qwen2"}),
        ("model.layers.2.self_attn.q_norm.weight", {"model_type": "qwen2"}),
        ("lm_head.bias", {"model_type": "qwen2"}),
    ],
)
def test_a_tensor_that_would_not_be_read_is_named(model, name, kind):
    architecture = f"{kind['model_type'].capitalize()}ForCausalLM"
    edit(model, **kind, architectures=[architecture])
    if kind["model_type"] != "qwen2":
        change(model, without(".bias"))
    assert resolve_model(str(model), "models.expert") == str(model)
    change(model, lambda weights: weights | {name: np.ones(96, np.float32)})
    said = f"the weights have {name}, which {architecture} does not have by config.json, and"
    assert refusal(model).startswith(said)


def test_buffers_of_older_files_do_not_hide_what_is_missing(model):
    change(
        model,
        lambda weights: weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4)},
    )
    assert resolve_model(str(model), "models.expert") == str(model)
    change(model, without("norm.weight"))
    assert "the weights have no model.layers.0.input_layernorm.weight" in refusal(model)
