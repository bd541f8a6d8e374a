"""Targets of LoRA that the expert lacks are named before anything starts."""

import json
import re
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from lr_ray.config import merge, read_tree, resolve
from lr_ray.embedded import expert_path
from lr_ray.errors import UserError
from lr_ray.pipeline.job import check
from lr_ray.training.targets import check_targets


def asked(targets: list[str], method: str = "lora"):
    return resolve(
        merge(read_tree("demo"), {"training": {"method": method, "lora": {"targets": targets}}})
    )


@pytest.mark.parametrize(
    ("targets", "wrong"),
    [
        (["q_prj"], "q_prj"),
        (["all-linear"], "all-linear"),
        ([""], ""),
        (["norm"], "norm"),
        (["self_attn"], "self_attn"),
        ([".*_proj"], ".*_proj"),
        (["q_proj", "v_prj"], "v_prj"),
    ],
)
def test_a_target_that_is_no_layer_is_named(targets, wrong):
    names = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    said = f"training.lora.targets: {wrong!r}: is no layer of the expert; must be of {names}"
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        check(asked(targets), ("training",))


def test_the_output_layer_is_refused():
    said = "'lm_head': the loss reads its weight without an update, .*; leave it out, or set"
    with pytest.raises(UserError, match=said):
        check(asked(["q_proj", "lm_head"]), ("training",))


def test_an_embedding_that_is_the_output_layer_too_is_refused(tmp_path):
    for name in ("embed_tokens", "model.embed_tokens"):
        said = (
            f"'{name}': is the expert's output layer too .*; leave it out, or set training.method"
        )
        with pytest.raises(UserError, match=said):
            check(asked(["q_proj", name]), ("training",))
    model = shutil.copytree(expert_path(), tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    save_file(
        weights | {"lm_head.weight": weights["model.embed_tokens.weight"]},
        model / "model.safetensors",
    )
    config = json.loads((model / "config.json").read_text()) | {"tie_word_embeddings": False}
    (model / "config.json").write_text(json.dumps(config))
    check_targets(str(model), asked(["embed_tokens"]).training)


@pytest.mark.parametrize(
    ("targets", "method", "stages"),
    [
        (["q_proj", "down_proj"], "lora", ("training",)),
        (["model.layers.0.self_attn.q_proj", "1.mlp.up_proj"], "lora", ("training",)),
        (["q_prj"], "full", ("training",)),
        (["q_prj"], "lora", ("sampling",)),
    ],
)
def test_others_are_taken(targets, method, stages):
    assert check(asked(targets, method), stages)[0] == str(expert_path())
