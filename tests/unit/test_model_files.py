"""Model directories that are not whole are named at once, by the file that is to blame."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lr_ray.embedded import expert_path
from lr_ray.errors import UserError
from lr_ray.models.architectures import check_runs
from lr_ray.models.files import INDEX, context_length, vocabulary_rows
from lr_ray.models.models import check_stops, load_tokenizer, resolve_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 2214400\n"


@pytest.fixture
def model(tmp_path) -> Path:
    return shutil.copytree(expert_path(), tmp_path / "model")


def refusal(model: Path) -> str:
    with pytest.raises(UserError) as error:
        resolve_model(str(model), "models.expert")
    said = str(error.value)
    assert said.startswith(f"models.expert: {model}: ")
    assert "\n" not in said
    return said


def edit(model: Path, **changes) -> None:
    """Sets fields of config.json, and takes out those that are set to None."""
    config = json.loads((model / "config.json").read_text()) | changes
    kept = {name: value for name, value in config.items() if value is not None}
    (model / "config.json").write_text(json.dumps(kept))


def shard(model: Path, indexed: bool = True) -> list[str]:
    """Puts the weights into three shards."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    parts = [dict(list(tensors.items())[i::3]) for i in range(3)]
    for name, part in zip(names, parts, strict=True):
        save_file(part, model / name)
    placed = {t: name for name, part in zip(names, parts, strict=True) for t in part}
    if indexed:
        (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return names


def test_whole_directories_are_taken(model):
    assert resolve_model(str(model), "models.expert") == str(model)
    shard(model)
    assert resolve_model(str(model), "models.expert") == str(model)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            POINTER,
            "model.safetensors is a pointer of git-lfs, not the file itself; run git lfs pull",
        ),
        (b"", "model.safetensors is cut or damaged at 0 bytes (header too small)"),
        (b"\0" * 100, "model.safetensors is cut or damaged at 100 bytes"),
        (b"<!DOCTYPE html><html>rate limited</html>", "cut or damaged"),
    ],
)
def test_what_is_no_weights_is_named(model, content, said):
    (model / "model.safetensors").write_bytes(content)
    assert said in refusal(model)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_named(model, name, encoding):
    (model / name).write_text((model / name).read_text(), encoding)
    assert f"{name} begins with a byte order mark; save it as UTF-8 without" in refusal(model)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("dtype", "float99", "dtype = 'float99': must be as bfloat16"),
        ("torch_dtype", 16, "torch_dtype = 16: must be as bfloat16"),
        ("rope_theta", "1e6", "rope_theta = '1e6': must be a number above 0"),
        ("rms_norm_eps", float("nan"), "rms_norm_eps = nan: must be a number above 0"),
        ("hidden_act", "zzz", "hidden_act = 'zzz': vLLM runs this architecture with silu alone"),
        ("rope_scaling", {"type": "zzz"}, "rope_scaling.type = 'zzz': must be one of default, linear"),
        ("rope_parameters", {"rope_type": 5}, "rope_parameters.rope_type = 5: must be one of"),
        ("rope_parameters", {"full": {"rope_type": "x"}}, "rope_parameters.full.rope_type = 'x': must"),
    ],
)  # fmt: skip
def test_a_value_that_no_engine_knows_is_named(model, field, value, said):
    edit(model, **{field: value})
    assert f"config.json: {said}" in refusal(model)


@pytest.mark.parametrize(
    ("field", "value"),
    [("dtype", "torch.bfloat16"), ("torch_dtype", "float16"), ("dtype", "auto"),
     ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}), ("rope_scaling", {"type": "mrope"}),
     ("rope_parameters", {"full_attention": {"rope_type": "default"}, "sliding_attention": {}})],
)  # fmt: skip
def test_values_that_engines_know_are_taken(model, field, value):
    edit(model, **{field: value})
    assert resolve_model(str(model), "models.expert")


def test_weights_of_another_model_are_named(model):
    save_file({"model.layers.9.x": np.zeros(1, np.float32)}, model / "model.safetensors")
    assert "num_hidden_layers = 4, and the weights have no layer 0" in refusal(model)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.999999])
def test_cut_weights_are_named(model, share):
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[: int(len(whole) * share)])
    assert "model.safetensors is cut or damaged at" in refusal(model)


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("which", [0, 2])
def test_a_missing_shard_is_named(model, indexed, which):
    names = shard(model, indexed)
    (model / names[which]).unlink()
    assert f"1 of 3 shards of weights missing: {names[which]}; copy" in refusal(model)


def test_a_shard_among_whole_ones_that_is_a_pointer_is_named(model):
    (model / shard(model)[1]).write_bytes(POINTER)
    assert "model-00002-of-00003.safetensors is a pointer of git-lfs" in refusal(model)


def test_shards_need_their_index_and_it_must_be_right(model):
    names = shard(model, indexed=False)
    assert f"no {INDEX}, which says" in refusal(model)
    for content in (POINTER, b"{", b"[]", b"{}", b'{"weight_map": []}'):
        (model / INDEX).write_bytes(content)
        assert INDEX in refusal(model)
    (model / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": names[0]}}))
    assert f"{names[0]} has no lm_head.weight, which {INDEX} places there" in refusal(model)


@pytest.mark.parametrize("name", [["x"], {}, None, 1])
def test_an_index_that_places_a_tensor_in_no_file_is_named(model, name):
    shard(model)
    (model / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    assert f"{INDEX}: weight_map: a = {name!r}: must be the name of a file" in refusal(model)


def test_weights_in_another_format_are_named(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "no *.safetensors weights" in refusal(model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_position_embeddings": None}, "config.json has no max_position_embeddings; add it"),
        ({"max_position_embeddings": "512"}, "max_position_embeddings = '512': must be a whole"),
        ({"max_position_embeddings": 0}, "max_position_embeddings = 0: must be a whole number"),
        ({"vocab_size": None}, "config.json has no vocab_size; add it, a whole number above 0"),
        ({"vocab_size": True}, "vocab_size = True: must be a whole number"),
        ({"vocab_size": 151936}, "vocab_size = 151936, and model.embed_tokens.weight has 590"),
        ({"hidden_size": None}, "config.json has no hidden_size"),
        ({"hidden_size": 64}, "hidden_size = 64, and model.embed_tokens.weight has 96"),
        ({"num_hidden_layers": 24}, "num_hidden_layers = 24, and the weights have no layer 4"),
        (
            {"num_hidden_layers": 10**9},
            "num_hidden_layers = 1000000000, and the weights have no la",
        ),
        (
            {"num_hidden_layers": 1},
            "num_hidden_layers = 1, and the weights have 4 layers; put the wei",
        ),
        ({"num_attention_heads": 0}, "num_attention_heads = 0: must be a whole number above 0"),
        (
            {"num_attention_heads": 7},
            "num_attention_heads = 7 times head_dim = 13 (hidden_size / num_attention_heads), and "
            "model.layers.0.self_attn.q_proj.weight has 96 rows; put the weights' own",
        ),
        (
            {"head_dim": 3},
            "num_attention_heads = 3 times head_dim = 3, and model.layers.0.self_attn.q",
        ),
        (
            {"num_key_value_heads": 1},
            "num_key_value_heads = 1 times head_dim = 32 (hidden_size / num_a",
        ),
        ({"num_key_value_heads": "3"}, "num_key_value_heads = '3': must be a whole number above 0"),
        (
            {"intermediate_size": 7},
            "intermediate_size = 7, and model.layers.0.mlp.gate_proj.weight has",
        ),
        ({"num_hidden_layers": None}, "config.json has no num_hidden_layers"),
        ({"architectures": None}, "config.json has no architectures"),
        ({"architectures": []}, "config.json has no architectures"),
        ({"model_type": None}, "config.json has no model_type"),
    ],
)
def test_a_config_that_lacks_a_field_or_is_of_another_model_is_named(model, change, said):
    edit(model, **change)
    assert said in refusal(model)


def test_a_null_model_type_is_none(model):
    path = model / "config.json"
    known = json.loads(path.read_text()) | {"architectures": ["Mine"], "model_type": None}
    path.write_text(json.dumps(known | {"dtype": "double"}))
    assert "config.json has no model_type" in refusal(model)


WRONG = {"num_hidden_layers": 1, "num_attention_heads": 7, "head_dim": 3, "intermediate_size": 7}


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next"},
        {"architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe"},
        {"model_type": "mine"},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"compression_config": {}},
        {"num_nextn_predict_layers": 3},
        {"mtp_num_hidden_layers": 3},
    ],
)
def test_shapes_of_other_architectures_are_left_to_the_engine(model, change):
    edit(model, **WRONG, **change)
    assert resolve_model(str(model), "models.expert") == str(model)


@pytest.mark.parametrize(
    "change",
    [
        {"head_dim": None, "num_key_value_heads": None},
        {"head_dim": 32},
        {"intermediate_size": None, "num_attention_heads": None},
    ],
)
def test_fields_that_a_config_lacks_are_left_to_the_engine(model, change):
    edit(model, **change)
    assert resolve_model(str(model), "models.expert") == str(model)


def test_so_they_are_where_an_architecture_has_heads_of_its_own_width(model):
    weights = load_file(model / "model.safetensors")  # Qwen2's, whose biases Gemma has not
    plain = {name: weight for name, weight in weights.items() if not name.endswith(".bias")}
    save_file(plain, model / "model.safetensors")
    edit(model, architectures=["GemmaForCausalLM"], model_type="gemma", head_dim=None)
    assert resolve_model(str(model), "models.expert") == str(model)


@pytest.mark.parametrize(
    "rename",
    [
        {"q_proj.weight": "q_proj.weight_packed"},
        {"q_proj.weight": "q_proj.qweight"},
    ],
)
def test_weights_under_other_names_are_left_to_the_engine(model, rename):
    weights = load_file(model / "model.safetensors")
    for old, new in rename.items():
        weights = {name.replace(old, new): weight for name, weight in weights.items()}
    save_file(weights, model / "model.safetensors")
    edit(model, num_attention_heads=7, head_dim=3, intermediate_size=7)
    assert resolve_model(str(model), "models.expert") == str(model)


def test_heads_may_be_shared_and_wider_than_their_part_of_the_hidden_size(model):
    weights = load_file(model / "model.safetensors")
    for layer in range(4):
        attention = f"model.layers.{layer}.self_attn."
        for name, rows in (("q_proj", 5 * 64), ("k_proj", 64), ("v_proj", 64)):
            weights[f"{attention}{name}.weight"] = np.zeros((rows, 96), np.float32)
            weights[f"{attention}{name}.bias"] = np.zeros(rows, np.float32)
        weights[f"{attention}o_proj.weight"] = np.zeros((96, 5 * 64), np.float32)
    save_file(weights, model / "model.safetensors")
    edit(model, num_attention_heads=5, num_key_value_heads=1, head_dim=64)
    assert resolve_model(str(model), "models.expert") == str(model)


def test_weights_without_a_tensor_are_named(model):
    save_file({}, model / "model.safetensors")
    assert "model.safetensors: holds no tensor; copy the weights there" in refusal(model)


def test_weights_that_the_index_does_not_name_are_not_looked_at(model):
    shard(model)
    save_file({"model.layers.4.x.weight": np.zeros(1)}, model / "other.safetensors")
    assert resolve_model(str(model), "models.expert") == str(model)


@pytest.mark.parametrize("name", ["weights", "model-00001-of-00001"])
def test_weights_under_a_name_that_training_does_not_know_are_named(model, name):
    (model / "model.safetensors").rename(model / f"{name}.safetensors")
    said = "no model.safetensors, the only name by which training finds the weights; rename "
    assert f"{said}{name}.safetensors" in refusal(model)


@pytest.mark.parametrize("name", ["model_old", "model (1)", "adapter_model"])
def test_other_weights_beside_a_models_are_named(model, name):
    shutil.copyfile(model / "model.safetensors", model / f"{name}.safetensors")
    assert f"{name}.safetensors lies beside model.safetensors: vLLM would read both" in refusal(
        model
    )


def test_weights_in_one_file_beside_an_index_of_others_are_named(model):
    whole = (model / "model.safetensors").read_bytes()
    names = shard(model)
    (model / "model.safetensors").write_bytes(whole)
    assert f"model.safetensors lies beside {INDEX}, which names other files" in refusal(model)
    placed = json.loads((model / INDEX).read_text())["weight_map"]
    for name in names:
        (model / name).unlink()
    (model / INDEX).write_text(
        json.dumps({"weight_map": dict.fromkeys(placed, "model.safetensors")})
    )
    assert resolve_model(str(model), "models.expert") == str(model)


def test_a_second_copy_in_mistrals_own_form_may_lie_beside_the_weights_of_an_index(model):
    copy = model / "consolidated.safetensors"
    save_file({"tok_embeddings.weight": np.zeros((2, 3))}, copy)
    assert f"{copy.name} lies beside model.safetensors: vLLM would read both" in refusal(model)
    shard(model)
    assert resolve_model(str(model), "models.expert") == str(model)


def test_a_tensor_of_two_shards_is_named(model):
    first, second, _ = shard(model)
    weights = load_file(model / first)
    save_file(weights | load_file(model / second), model / second)
    assert f" is in {second}, and also in {first}, where {INDEX} places it; copy" in refusal(model)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", POINTER, b"\xff\xfe{}"])
def test_a_config_that_is_no_json_object_is_named(model, content):
    (model / "config.json").write_bytes(content)
    assert "config.json" in refusal(model)


@pytest.mark.parametrize("name", ["text_config", "llm_config"])
def test_a_multimodal_models_numbers_are_those_of_its_language_model(model, name):
    config = json.loads((model / "config.json").read_text())
    nested = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}
    (model / "config.json").write_text(json.dumps(nested | {name: config}))
    assert (context_length(str(model)), vocabulary_rows(str(model))) == (512, 590)
    assert resolve_model(str(model), "models.a") == str(model)


def test_older_models_have_other_names_for_their_context(model):
    edit(model, max_position_embeddings=None, n_positions=256)
    assert context_length(str(model)) == 256


def test_a_tokenizer_that_is_missing_or_a_pointer_is_named(model):
    (model / "tokenizer.json").write_bytes(POINTER)
    assert "tokenizer.json is a pointer of git-lfs" in refusal(model)
    (model / "tokenizer.json").unlink()
    assert "no tokenizer.json; put the model's tokenizer beside its weights" in refusal(model)
    load_tokenizer.cache_clear()
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        load_tokenizer(str(model))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "[]", '{"added_tokens": ['])
def test_a_part_of_a_tokenizer_is_named_by_its_file(model, name, content):
    (model / name).write_text(content)
    assert f"{name}: " in refusal(model)


@pytest.mark.parametrize(
    ("file", "field", "value", "said"),
    [
        ("tokenizer_config.json", "model_max_length", "x", "tokenizer cannot be loaded: "),
        ("config.json", "tie_word_embeddings", "yes", "config.json cannot be loaded: "),
    ],
)
def test_what_keeps_a_tokenizer_from_working_is_one_line(model, file, field, value, said):
    content = json.loads((model / file).read_text())
    (model / file).write_text(json.dumps(content | {field: value}))
    with pytest.raises(UserError, match=said) as error:
        load_tokenizer(str(model))
    assert "\n" not in str(error.value)


def test_a_models_own_code_is_neither_run_nor_asked_for(model, capsys):
    edit(model, model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    (model / "mine.py").write_text("raise SystemExit(3)")
    said = r"model_type = 'mine': is of no model .*; a model's own code \(auto_map\) is not run"
    with pytest.raises(UserError, match=said):
        check_runs(str(model), "models.expert: x")
    load_tokenizer(str(model))
    assert capsys.readouterr().out == ""


def test_pipes_and_hidden_leftovers_are_not_read_as_weights(model):
    (model / "._model.safetensors").write_bytes(b"x")
    assert resolve_model(str(model), "models.expert") == str(model)
    (model / "model.safetensors").unlink()
    os.mkfifo(model / "model.safetensors")
    assert "model.safetensors is no regular file; copy it again" in refusal(model)


def test_an_adapter_beside_its_model_is_named(model):
    (model / "adapter_config.json").write_text("{}")
    assert "holds an adapter beside the model; give the merged model, or move adapter_* away" in (
        refusal(model)
    )


def test_an_adapter_in_place_of_a_model_is_named(model):
    (model / "config.json").rename(model / "adapter_config.json")
    assert "no config.json, but an adapter; give the model merged with it" in refusal(model)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b'{"eos_token_id": "x"}',
        b'{"eos_token_id": 590}',
        b'{"eos_token_id": [true]}',
        b'{"eos_token_id": [[1]]}',
        b'{"eos_token_id": {"a": 1}}',
    ],
)
def test_a_generation_config_that_cannot_be_read_is_named(model, content):
    (model / "generation_config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"generation_config\.json"):
        check_stops(str(model))


def test_a_download_leaves_a_copy_in_mistrals_own_form_out(monkeypatch):
    from huggingface_hub.utils import filter_repo_objects

    there = [
        "config.json",
        "model.safetensors",
        "consolidated.safetensors",
        "tokenizer.json",
        "x.py",
    ]
    wanted = []

    def download(reference: str, **patterns) -> str:
        wanted.extend(filter_repo_objects(there, **patterns))
        return str(expert_path())

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve_model("someone/model", "models.expert") == str(expert_path())
    assert wanted == ["config.json", "model.safetensors", "tokenizer.json"]
