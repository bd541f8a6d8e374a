"""Chat templates that cannot be asked as the stages ask are named before anything starts."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lr_ray.config import merge, read_tree, resolve
from lr_ray.embedded import expert_path
from lr_ray.errors import UserError
from lr_ray.evaluation.prompts import check_expert, check_lengths
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.models.models import load_tokenizer, render_prompt
from lr_ray.sampling.expert import Solver

LOOP = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
TURNS = "{% if messages|length > 2 %}{{ raise_exception('one turn alone') }}{% endif %}"
SYSTEM = {"system_prompt": "Be brief."}
ALL = ("sampling", "training", "evaluation")


@pytest.fixture
def model(tmp_path) -> Path:
    return shutil.copytree(expert_path(), tmp_path / "model")


def check(model: Path, template: str | None, stages=ALL, **sections) -> None:
    (model / "chat_template.jinja").unlink(missing_ok=True)
    if template is not None:
        (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    load_tokenizer.cache_clear()
    tree = merge(read_tree("demo"), {"models": {"expert": str(model)}, **sections})
    check_expert(str(model), resolve(tree), stages)


def test_templates_that_render_are_taken(model):
    asked = {"shots": [0, 2], "prefill": "So", **SYSTEM}
    check(model, LOOP + OPEN, sampling=SYSTEM, evaluation=asked)
    check(model, LOOP.replace("m.content", "m.content | trim"), sampling={"system_prompt": " a\n"})
    check(model, REFUSES + LOOP + OPEN)
    check(model, REFUSES + LOOP + OPEN, ("training",), sampling=SYSTEM)
    check(model, REFUSES + LOOP + OPEN, ("evaluation",), sampling=SYSTEM)
    check(model, TURNS + LOOP + OPEN, evaluation={"protocol": "paper", "shots": [2]})


def test_end_tokens_that_the_expert_has_not_are_named_before_its_engine_starts(model):
    (model / "generation_config.json").write_text('{"eos_token_id": "<|im_end|>"}')
    with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id = '<\|im_end\|>'"):
        check(model, LOOP + OPEN)


def test_a_template_that_fills_the_context_alone_is_named(model):
    long = "{{ 'pens ' * 600 }}" + LOOP + OPEN
    with pytest.raises(
        UserError, match=r"^models.expert: .*: its chat template and .* without a problem"
    ):
        check(model, long)
    said = r"sampling\.max_new_tokens = 505 leaves 7 of 512; shorten them"
    with pytest.raises(UserError, match=said):
        check(model, LOOP + OPEN, sampling={"max_new_tokens": 505, **SYSTEM})
    check(model, long, ("evaluation",))


@pytest.mark.parametrize(
    ("template", "sections", "said"),
    [
        (None, {}, "no chat template; put the model's chat_template.jinja beside its tokenizer"),
        ("", {}, "no chat template"),
        ("{% for m in messages %}{{ m.content }", {}, "its chat template cannot be rendered: unexp"),
        ("{{ messages[0].text.strip() }}", {}, "cannot be rendered"),
        ("{{ 1 / 0 }}", {}, "cannot be rendered: division by zero"),
        ("{{ undefined_filter | nope }}", {}, "cannot be rendered"),
        ("{{ raise_exception('') }}", {}, "cannot be rendered"),
        ("{% for m in messages %}{{ m.text }}{% endfor %}", {}, "leaves out the problem"),
        ("Solve it.", {}, "leaves out the problem"),
        (REFUSES + LOOP, {"sampling": SYSTEM},
         "refuses a system turn; put sampling.system_prompt into the problems, or leave it out: no s"),
        (REFUSES + LOOP, {"evaluation": SYSTEM}, "put evaluation.system_prompt into the problems"),
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
         {"sampling": SYSTEM}, "leaves out the system turn (sampling.system_prompt)"),
        ("{{ messages[-1].content }}", {"evaluation": {"shots": [1]}}, "leaves out the problem"),
        (REFUSES + LOOP, {"evaluation": {"protocol": "both"}},
         "refuses the system turn of evaluation.protocol paper; give protocol same: no system here"),
        (TURNS + LOOP, {"evaluation": {"shots": [0, 1]}},
         "refuses the turns of evaluation.shots; leave it out: one turn alone"),
        (TURNS + LOOP, {"evaluation": {"prefill": "So", **SYSTEM}}, "refuses the turns of evaluation.p"),
    ],
)  # fmt: skip
def test_what_the_template_refuses_is_named(model, template, sections, said):
    with pytest.raises(UserError) as error:
        check(model, template, **sections)
    assert str(error.value).startswith(f"models.expert: {model}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tokenizer_of_more_tokens_than_the_model_has_is_named(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 40}))
    with pytest.raises(
        UserError, match=r"makes token \d+, and the model has 40; the tokenizer is of"
    ):
        check(model, LOOP + OPEN)


def test_a_multimodal_expert_is_named(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({"model_type": "x", "text_config": config}))
    with pytest.raises(
        UserError, match="keeps its language model in text_config: a multimodal mod"
    ):
        check(model, LOOP)


def test_a_problem_that_the_template_refuses_is_rejected_alone(model):
    picky = "{% if 'pens' in messages[0].content %}{{ raise_exception('no pens') }}{% endif %}"
    (model / "chat_template.jinja").write_text(picky + LOOP + OPEN)
    load_tokenizer.cache_clear()
    solver = SimpleNamespace(
        tokenizer=load_tokenizer(str(model)), sampling=SimpleNamespace(system_prompt=None), variables={},
        _unusable=lambda ids: None,
    )  # fmt: skip
    assert Solver._prompt(solver, "pens?") == ([], "the chat template refuses it: no pens")
    ids, reason = Solver._prompt(solver, "hats?")
    assert ids
    assert reason is None


THINKING = (
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)


def test_variables_of_the_template_reach_the_prompt_and_unknown_ones_are_named(model):
    (model / "chat_template.jinja").write_text(LOOP + OPEN + THINKING)
    load_tokenizer.cache_clear()
    tokenizer = load_tokenizer(str(model))
    off = {"enable_thinking": False}
    plain, quiet = (render_prompt(tokenizer, "Hi?", None, variables) for variables in ({}, off))
    assert tokenizer.decode(quiet) == tokenizer.decode(plain) + "<think>\n\n</think>\n\n"
    config = resolve(merge(read_tree("demo"), {"models": {"chat_template_kwargs": off}}))
    solver = SimpleNamespace(
        tokenizer=tokenizer, sampling=config.sampling, variables=config.models.chat_template_kwargs,
        _unusable=lambda ids: None,
    )  # fmt: skip
    assert Solver._prompt(solver, "Hi?") == (quiet, None)
    check_expert(str(model), config, ALL)
    with pytest.raises(
        UserError, match=r"^models\.chat_template_kwargs: enable_thinking: the expert's"
    ):
        check_expert(str(expert_path()), config, ALL)
    with pytest.raises(UserError, match=r"^models\.chat_template_kwargs: thinking: the expert's"):
        check(model, LOOP + OPEN + THINKING, models={"chat_template_kwargs": {"thinking": False}})


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"shots": [0, 2]}, None),
        ({"shots": [0, 8]}, r"= 128 leaves 384 of serving\.max_model_len = 512 .* 40 of 80 prompts are longer, up to \d+ in demo-8-shot; give .* evaluation\.shots"),
        ({"max_new_tokens": 480, "protocol": "paper"}, r"40 of 40 prompts .* in demo-paper"),
        ({"max_new_tokens": 480}, r"leaves 32 .* 40 of 40 prompts"),
        ({"max_new_tokens": 448}, None),  # two prompts are longer than 64 tokens; so few may be refused
    ],
)  # fmt: skip
def test_prompts_that_leave_no_room_for_an_answer_are_counted(asked, told):
    config = resolve(merge(read_tree("demo"), {"evaluation": {"max_problems": 40, **asked}}))
    tasks = load_tasks(config.evaluation)
    if told is None:
        check_lengths(str(expert_path()), config, tasks)
        return
    with pytest.raises(UserError, match=told):
        check_lengths(str(expert_path()), config, tasks)
