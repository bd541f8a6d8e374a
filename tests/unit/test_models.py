"""Model references, pair check and fingerprints, on the embedded pair."""

import json
import shutil

import pytest

from lr_ray.config import Models, Sampling, ServeConfig
from lr_ray.config import resolve as checked
from lr_ray.embedded import amateur_path, expert_path
from lr_ray.errors import UserError
from lr_ray.models.architectures import check_runs, check_scores
from lr_ray.models.models import (
    check_pair,
    check_room,
    engine_room,
    fingerprint,
    fitting,
    load_tokenizer,
    render_prompt,
    resolve_model,
    resolve_served,
    stop_token_ids,
)
from lr_ray.placement.sizes import find_model

EXPERT, AMATEUR = str(expert_path()), str(amateur_path())
MODELS = Models(expert="embedded:expert", amateur="embedded:amateur")


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(AMATEUR, tmp_path / "copy")


def edit(file, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_embedded_references_resolve():
    assert resolve_model("embedded:expert", "models.expert") == EXPERT
    with pytest.raises(UserError, match=r"models\.expert: embedded:export is not one of"):
        resolve_model("embedded:export", "models.expert")


def test_models_are_served_as_far_as_they_read_unless_somebody_says_how_far(copy):
    edit(copy / "config.json", lambda c: c.update(max_position_embeddings=300))
    models = {"small": str(copy), "expert": EXPERT}
    asked = lambda **serving: checked({"models": models, "serving": serving}, ServeConfig).serving  # noqa: E731
    assert fitting(asked(), models).max_model_len == 300
    assert fitting(asked(port=8001), {"expert": EXPERT}).max_model_len == 512
    assert fitting(asked(max_model_len=100), models).max_model_len == 100
    said = r"^serving.max_model_len = 4096 is more than small reads; give at most 300$"
    with pytest.raises(UserError, match=said):
        fitting(asked(max_model_len=4096), models)


@pytest.mark.parametrize("resolve", [resolve_model, resolve_served])
@pytest.mark.parametrize("reference", ["~nosuchuser/x", "~nosuchuser", "~nosuchuser/x/y"])
def test_the_home_of_nobody_is_no_directory(resolve, reference):
    with pytest.raises(UserError, match=rf"^models\.expert: {reference}: no such directory \(nor"):
        resolve(reference, "models.expert")


def test_missing_pieces_are_named(copy):
    assert resolve_model(str(copy), "models.amateur") == str(copy)
    with pytest.raises(UserError, match="no such directory"):
        resolve_model(str(copy / "none"), "models.amateur")
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="weights"):
        resolve_model(str(copy), "models.amateur")
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve_model(str(copy), "models.amateur")


def test_pair_is_accepted_and_differing_tokens_are_named(copy):
    check_pair(EXPERT, AMATEUR, MODELS)

    def swap(tokenizer):
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]

    edit(copy / "tokenizer.json", swap)
    with pytest.raises(UserError, match=r"2 tokens differ \('[ab]', '[ab]'\)"):
        check_pair(EXPERT, str(copy), MODELS)
    (copy / "tokenizer.json").write_text("{}")
    load_tokenizer.cache_clear()
    with pytest.raises(UserError, match="tokenizer cannot be loaded"):
        check_pair(EXPERT, str(copy), MODELS)


def test_special_tokens_may_differ_only_when_asked(copy):
    def rename(tokenizer):
        for token in tokenizer["added_tokens"]:
            if token["content"] == "<|im_start|>":
                token["content"] = "<|turn|>"

    edit(copy / "tokenizer.json", rename)
    with pytest.raises(UserError, match="1 token differs"):
        check_pair(EXPERT, str(copy), MODELS)
    relaxed = MODELS.model_copy(update={"special_tokens_may_differ": True})
    check_pair(EXPERT, str(copy), relaxed)


@pytest.mark.parametrize(
    "name",
    ["GPT2LMHeadModel", "MistralForCausalLM", "Gemma3ForCausalLM", "Olmo2ForCausalLM"],
)
def test_any_text_generation_model_of_vllm_can_be_the_amateur(copy, name):
    edit(copy / "config.json", lambda config: config.update(architectures=[name]))
    check_pair(EXPERT, str(copy), MODELS)


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("ModernBertModel", {}, "for pooling only, without logits"),
        ("Qwen2ForRewardModel", {}, "for pooling only, without logits"),
        ("Qwen2VLForConditionalGeneration", {}, "a multimodal model"),
        ("Emu3ForConditionalGeneration", {}, "a multimodal model"),
        ("Qwen3ForCausalLM", {"text_config": {"vocab_size": 9}}, "a multimodal model"),
        ("Eagle3Qwen3ForCausalLM", {}, "a draft model for speculative decoding"),
        ("T5ForConditionalGeneration", {"is_encoder_decoder": True}, "an encoder-decoder"),
        ("MPTForCausalLM", {}, "the installed vLLM has dropped it"),
        ("MadeUpForCausalLM", {}, "no text generation model of that name"),
    ],
)
def test_amateur_that_cannot_score_is_named_with_the_reason(copy, name, fields, reason):
    edit(copy / "config.json", lambda config: config.update(architectures=[name], **fields))
    match = rf"models\.amateur: embedded:amateur: {name} cannot score: .*{reason}"
    with pytest.raises(UserError, match=match):
        check_pair(EXPERT, str(copy), MODELS)


@pytest.mark.parametrize("check", [check_runs, check_scores])
@pytest.mark.parametrize("kind", ["qwen99", 3, None])
def test_a_model_type_that_no_engine_knows_is_named(copy, check, kind):
    edit(copy / "config.json", lambda config: config.update(model_type=kind))
    said = rf"^models\.x: y: config\.json: model_type = {kind!r}: is of no model that vLLM or"
    with pytest.raises(UserError, match=said):
        check(str(copy), "models.x: y")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Qwen2ForCausalLM", None),
        ("Qwen2VLForConditionalGeneration", None),
        ("MadeUpForCausalLM", None),  # which vLLM may run by way of transformers
        ("ModernBertModel", "vLLM serves it for pooling only"),
        ("MPTForCausalLM", "the installed vLLM has dropped it"),
    ],
)
def test_a_model_that_cannot_generate_is_named_with_the_reason(copy, name, reason):
    edit(copy / "config.json", lambda config: config.update(architectures=[name]))
    if reason is None:
        check_runs(str(copy), "models.x")
    else:
        with pytest.raises(UserError, match=rf"^models\.x: {name} cannot generate: {reason}"):
            check_runs(str(copy), "models.x")


@pytest.mark.parametrize("reference", ["x" * 300, "a/" + "x" * 300, "a/b@main", "a b/c", "a/-"])
def test_a_name_that_is_neither_a_files_nor_the_hubs_is_no_directory(reference):
    with pytest.raises(UserError, match=r"^models\.x: .*: no such directory"):
        resolve_served(reference, "models.x")
    assert "is not here" in find_model(reference, "models.x")


@pytest.mark.parametrize("name", ["chat_template.jinja", "config.json", "model.safetensors"])
def test_fingerprint_follows_every_file_that_counts(copy, name):
    before = fingerprint(str(copy))
    assert before == fingerprint(AMATEUR)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    assert fingerprint(str(copy)) != before


def test_prompt_has_a_system_turn_when_given_and_ends_open():
    tokenizer = load_tokenizer(EXPERT)
    plain = tokenizer.decode(render_prompt(tokenizer, "2+2?", None))
    assert plain.startswith("<|im_start|>user\n2+2?<|im_end|>")
    assert plain.endswith("<|im_start|>assistant\n")
    system = tokenizer.decode(render_prompt(tokenizer, "2+2?", "Be brief."))
    assert system == "<|im_start|>system\nBe brief.<|im_end|>\n" + plain
    assert stop_token_ids(EXPERT) == [tokenizer.eos_token_id]


def test_completions_as_long_as_the_context_are_refused(copy):
    check_room(EXPERT, AMATEUR, Sampling(max_new_tokens=511))
    with pytest.raises(
        UserError, match=r"sampling\.max_new_tokens = 512 leaves no room .* 512 tokens"
    ):
        check_room(EXPERT, AMATEUR, Sampling(max_new_tokens=512))
    solutions = Sampling(method="rejection", rejection={"max_new_tokens": 600})
    with pytest.raises(
        UserError, match=r"^sampling\.rejection\.max_new_tokens = 600 leaves no room"
    ):
        check_room(EXPERT, None, solutions)
    check_room(EXPERT, AMATEUR, solutions.model_copy(update={"method": "contrast"}))
    edit(copy / "config.json", lambda c: c.update(max_position_embeddings=64))
    with pytest.raises(UserError, match="both read 64 tokens"):
        check_room(EXPERT, str(copy), Sampling(max_new_tokens=100))


def test_engines_have_room_for_what_is_sampled_and_not_for_all_that_models_read(copy):
    assert engine_room(EXPERT, AMATEUR, Sampling()) == 512  # what both read
    edit(copy / "config.json", lambda c: c.update(max_position_embeddings=131072))
    model = str(copy)
    assert engine_room(model, model, Sampling()) == 4096
    assert engine_room(model, EXPERT, Sampling()) == 512
    assert engine_room(model, None, Sampling(max_new_tokens=32768)) == 65536
    assert engine_room(model, model, Sampling(max_model_len=9000)) == 9000
    long = Sampling(method="rejection", rejection={"max_new_tokens": 3000})
    assert engine_room(model, None, long) == 6000
    check_room(model, model, Sampling(max_model_len=131072))
    with pytest.raises(UserError) as error:
        check_room(model, EXPERT, Sampling(max_model_len=513))
    said = "sampling.max_model_len = 513: expert and amateur both read 512 tokens; give at most 512"
    assert str(error.value) == said
