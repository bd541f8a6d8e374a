"""The command that makes a run again, read back by the command line's own reader."""

import shlex

import pytest

from lr_ray.cli.options import parse
from lr_ray.config import EndpointConfig, endpoint_tree, merge, read_tree, resolve
from lr_ray.report.page import reproduce
from lr_ray.report.page.source import Source
from lr_ray.run.store import Run

ASKED = {"endpoint": "http://there/v1", "models": ["a", "b"]}


def told(folder, config) -> dict:
    run = Run(str(folder))
    run.write_json("run.json", {"config": config.model_dump(mode="json")})
    return reproduce.section(Source(run, {}))


@pytest.mark.parametrize(
    ("preset", "over"),
    [
        ("demo", {}),
        ("qwen2.5-math-1.5b", {"evaluation": {"system_prompt": None, "prefill": "- ", "shots": [0, 4]}}),
        ("qwen3-4b", {"models": {"chat_template_kwargs": {"effort": 3, "said": "a, b"}}}),
        ("demo", {"models": {"chat_template_kwargs": {"enable_thinking": False}}}),
        ("demo", {"sampling": {"system_prompt": "Say\n'so', \"x\""}, "evaluation": {"stop": ["a,b", "--"]}}),
    ],
)  # fmt: skip
def test_the_command_gives_the_runs_settings(tmp_path, preset, over):
    config = resolve(merge(read_tree(preset), over))
    words = shlex.split(told(tmp_path, config)["command"])
    assert words[:2] == ["lr-ray", "run"]
    assert parse("", words[2:]).config.identity() == config.identity()


def test_an_entry_of_a_presets_mapping_that_the_run_lacks_is_not_left_in(tmp_path):
    tree = read_tree("qwen3-4b")
    assert tree["models"].pop("chat_template_kwargs")
    config = resolve(tree)
    words = shlex.split(told(tmp_path, config)["command"])
    assert parse("", words[2:]).config.identity() == config.identity()


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"benchmarks": ["demo"], "temperature": 0.5, "samples": 3, "seed": 2},
        {"system_prompt": None, "prefill": "-x", "stop": ["\n\n"], "max_problems": 5},
    ],
)
def test_the_command_gives_the_settings_of_an_endpoints_evaluation(tmp_path, over):
    usual = endpoint_tree()["evaluation"]
    config = resolve(ASKED | {"evaluation": merge(usual, over)}, EndpointConfig)
    found = told(tmp_path, config)
    words = shlex.split(found["command"])
    assert words[:2] == ["lr-ray", "evaluate"]
    again = parse("", words[2:], kind=EndpointConfig, defaults={"evaluation": usual}).config
    assert again.identity() == config.identity()
    assert [name for name, _, _ in found["changes"]] == [f"evaluation.{n}" for n in config.evaluation.model_dump() if n in over]  # fmt: skip
