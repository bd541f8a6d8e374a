"""What each setting affects, and what follows for a run's stages."""

import pytest

from lr_ray.config import Config, EndpointConfig, ServeConfig, flatten, merge, read_tree, resolve
from lr_ray.config.effects import marks_of
from lr_ray.run.stages import NAMES, STAGES, digests

DEMO = resolve(read_tree("demo"))
SAMPLED = ("decoding", "scoring", "labelling")


def with_(**sections) -> Config:
    return resolve(merge(DEMO.model_dump(mode="json"), sections))


def unlike(config: Config, fingerprints=None) -> list[str]:
    """Names of the stages whose digest is another than the demo's."""
    ours, theirs = digests(config, fingerprints or {}), digests(DEMO, {})
    return [name for name in NAMES if ours[name] != theirs[name]]


@pytest.mark.parametrize("kind", [Config, EndpointConfig, ServeConfig])
def test_every_field_says_what_it_affects(kind):
    def leaves(model, prefix=""):
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                yield from leaves(field.annotation, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    assert [name for name in leaves(kind) if not marks_of(kind, name)] == []


def test_conditions_name_fields_and_values_that_there_are():
    flat = flatten(DEMO.model_dump(mode="json"))
    conditions = {m.when for name in flat for m in marks_of(Config, name) if m.when}
    assert conditions == {
        ("sampling.method", "contrast"),
        ("sampling.method", "rejection"),
        ("training.method", "lora"),
        ("evaluation.protocol", "paper"),
        ("evaluation.protocol", "both"),
    }
    for name, value in conditions:
        section, field = name.split(".")
        assert getattr(getattr(with_(**{section: {field: value}}), section), field) == value


@pytest.mark.parametrize(
    ("changed", "stages"),
    [
        ({"sampling": {"max_new_tokens": 7}}, NAMES),
        ({"data": {"fields": {"id": "nr"}}}, NAMES),
        ({"models": {"amateur": "embedded:expert"}}, NAMES[1:]),
        ({"sampling": {"amateur": {"dtype": "bfloat16"}}}, NAMES[1:]),
        ({"sampling": {"labels": "greedy"}}, NAMES[2:]),
        ({"sampling": {"plausibility": 0.9}}, NAMES[2:]),
        ({"sampling": {"seed": 9}}, NAMES[2:]),
        ({"training": {"lora": {"rank": 4}}}, NAMES[3:]),
        ({"evaluation": {"prefill": "So."}}, NAMES[4:]),
        ({"evaluation": {"protocol": "both"}}, NAMES[4:]),
        ({"serving": {"dtype": "bfloat16"}}, NAMES[4:]),
        ({"evaluation": {"paper": {"expert_prompt": "chat"}}}, ()),
        ({"sampling": {"rejection": {"samples": 9}}}, ()),
        ({"training": {"trackers": []}, "resources": {"wait_s": 1}}, ()),
    ],
)
def test_a_change_reaches_the_stages_that_depend_on_it_and_no_other(changed, stages):
    assert unlike(with_(**changed)) == list(stages)


def test_a_setting_of_a_method_that_is_not_used_reaches_nothing():
    rejection = with_(sampling={"method": "rejection"})
    other = with_(sampling={"method": "rejection", "kl_threshold": 9}, models={"amateur": "a/b"})
    assert digests(rejection, {"amateur": "x"}) == digests(other, {})
    drawn = with_(sampling={"method": "rejection", "seed": 9})
    assert digests(rejection, {})["decoding"] != digests(drawn, {})["decoding"]


def test_a_limit_of_solutions_is_an_input_only_where_it_is_set():
    method = {"method": "rejection"}
    plain, own = (
        with_(sampling=method | {"rejection": {"max_new_tokens": most}}) for most in (None, 99)
    )
    name = "sampling.rejection.max_new_tokens"
    assert name not in plain.inputs("trajectories")  # digests of runs from before it hold
    assert own.inputs("trajectories") == {**plain.inputs("trajectories"), name: 99}
    for before, now in ((plain, own), (own, plain)):
        (change,) = now.changes(before.model_dump(mode="json"))
        assert change.effects == {"trajectories"}


def test_a_variable_of_the_template_reaches_every_stage_and_none_changes_nothing():
    off = with_(models={"chat_template_kwargs": {"enable_thinking": False}})
    assert unlike(off) == list(NAMES)
    assert not any("chat_template" in name for name in DEMO.inputs("trajectories", "answers"))
    name = "models.chat_template_kwargs.enable_thinking"
    for before, now, said in (
        (DEMO, off, f"{name} = None (now False)"),
        (off, DEMO, f"{name} = False (now None)"),
    ):
        (change,) = now.changes(before.model_dump(mode="json"))
        assert str(change) == said
        assert change.effects == {"trajectories", "answers"}
    older = DEMO.model_dump(mode="json")
    del older["models"]["chat_template_kwargs"]
    assert DEMO.changes(older) == []


def test_what_protocol_paper_asks_by_concerns_the_answers_of_that_protocol_alone():
    asked = {"protocol": "paper", "paper": {"stop_token_ids": [1]}}
    paper, other = with_(evaluation={"protocol": "paper"}), with_(evaluation=asked)
    (change,) = other.changes(paper.model_dump(mode="json"))
    assert change.effects == {"answers"}


@pytest.mark.parametrize("preset", ["demo", "qwen2.5-math-1.5b", "qwen2.5-math-7b-instruct"])
def test_a_run_from_before_there_were_protocols_has_the_same_answers(preset):
    config = resolve(read_tree(preset))
    before = config.model_dump(mode="json")
    del before["evaluation"]["protocol"], before["evaluation"]["paper"]
    assert not [change for change in config.changes(before) if change.effects]
    assert digests(config, {}) == digests(Config.model_validate(before), {})


def test_weights_behind_a_name_are_part_of_it():
    assert unlike(DEMO, {"expert": "x"}) == list(NAMES)
    assert unlike(DEMO, {"amateur": "x"}) == list(NAMES[1:])
    here, there = DEMO, with_(models={"expert": "/there/expert", "amateur": "/there/amateur"})
    known = {"expert": "x", "amateur": "y"}
    assert digests(here, known) == digests(there, known)
    for role, first in (("expert", 0), ("amateur", 1)):
        ours, theirs = (digests(c, known | {role: None}) for c in (here, there))
        assert [name for name in NAMES if ours[name] != theirs[name]] == list(NAMES[first:])


def test_a_smaller_plausibility_needs_trajectories_again_and_a_larger_one_labels():
    tree = DEMO.model_dump(mode="json")
    (smaller,) = with_(sampling={"plausibility": 0.1}).changes(tree)
    (larger,) = with_(sampling={"plausibility": 0.3}).changes(tree)
    assert (smaller.effects, larger.effects) == ({"trajectories", "rows"}, {"rows"})


def test_stages_are_in_the_order_of_their_effects():
    assert [s.effect for s in STAGES] == ["trajectories", "scores", "rows", "weights", "answers"]


@pytest.mark.parametrize("rule", ["random", "top:0.1", "entropy:0.2", "quadrant:sure_close"])
def test_the_batch_size_affects_the_rows_of_rules_that_choose_within_a_batch(rule):
    plain, other = (with_(sampling={"selection": rule, "batch_size": n}) for n in (64, 32))
    ours, theirs = digests(plain, {}), digests(other, {})
    assert [name for name in NAMES if ours[name] != theirs[name]] == list(NAMES[2:])
    assert "sampling.batch_size" not in plain.inputs("rows")  # digests of runs from before hold
    for before, now in ((plain, other), (other, plain)):
        (change,) = now.changes(before.model_dump(mode="json"))
        assert change.effects == {"rows"}
    rejection = {"method": "rejection", "selection": rule}
    two = (digests(with_(sampling=rejection | {"batch_size": n}), {}) for n in (64, 32))
    assert next(two) == next(two)


@pytest.mark.parametrize("rule", ["kl", "all", "random_within", "window:1-3", "first:2"])
def test_the_batch_size_is_speed_by_other_rules(rule):
    plain, other = (with_(sampling={"selection": rule, "batch_size": n}) for n in (64, 32))
    assert digests(plain, {}) == digests(other, {})
    assert plain.digest() == other.digest()
    assert not other.changes(plain.model_dump(mode="json"))
