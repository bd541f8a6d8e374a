"""Grids of variants: what they mean, and what is said of wrong ones."""

import pytest

from lr_ray.config import Config, merge, read_tree, resolve
from lr_ray.errors import UserError
from lr_ray.experiments.grid import grid_names, read_grid
from lr_ray.experiments.paper import paper
from lr_ray.experiments.plan import make_plan

DEMO = resolve(read_tree("demo"))


def grid(tmp_path, text: str, config: Config = DEMO, amateurs: str | None = None):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return read_grid(str(file), config, amateurs)


def test_the_ablations_are_what_they_say():
    of = {v.name: v for v in read_grid("ablations", DEMO).variants}
    assert of["lightreasoner"].config == DEMO
    assert of["random-steps"].config.sampling.selection == "random"
    assert of["greedy-labels"].config.sampling.labels == "greedy"
    assert of["equal-amateur"].config.models.amateur == DEMO.models.expert
    assert of["sft"].config.sampling.method == "rejection"
    assert of["sft"].config.training == of["trajectory-batches"].config.training
    longer = of["sft-3x"].config.training.optimizer_steps
    assert longer == 3 * of["sft"].config.training.optimizer_steps == 240
    paper = of["paper_sft"].config
    assert paper.sampling.rejection.model_dump() == {
        "samples": 1, "temperature": 0, "max_new_tokens": DEMO.evaluation.max_new_tokens,
    }  # fmt: skip
    assert paper.training == of["sft"].config.training.model_copy(
        update={"batch_size": 16, "learning_rate": 5e-5, "optimizer_steps": "auto"}
    )
    assert [v.name for v in of.values() if v.untrained] == ["prefilled-expert"]
    assert of["prefilled-expert"].config.evaluation.prefill == "Step by step."


VARIANTS = {
    "ablations": 12, "amateurs": 4, "gap": 6, "plausibility": 7, "rollout": 3, "rules": 8,
    "threshold": 8,
}  # fmt: skip


@pytest.mark.parametrize("name", grid_names())
def test_each_grid_of_the_package_can_be_read(name, tmp_path):
    for steps in (0, 4, 8, 20, 80):
        (tmp_path / f"amateur-careless-{steps}").mkdir()
    read = read_grid(name, DEMO, str(tmp_path))
    assert read.name == name
    assert len(read.variants) == VARIANTS[name]
    assert read.x is None or all(v.value is not None for v in read.variants)


def test_nested_and_dotted_names_and_multiples(tmp_path):
    text = """
seeds: [3, 5]
variants:
  a: {sampling: {kl_threshold: 0.3, rejection: {samples: 2}}, training.lora.rank: 4}
  b: {training.optimizer_steps: 0.5x, training.learning_rate: 2x, training.lora.targets: [q_proj]}
"""
    read = grid(tmp_path, text)
    assert (read.seeds, read.x) == ([3, 5], None)
    a, b = (v.config for v in read.variants)
    expected = {
        "sampling": {"kl_threshold": 0.3, "rejection": {"samples": 2}},
        "training": {"lora": {"rank": 4}},
    }
    assert a == resolve(merge(DEMO.model_dump(mode="json"), expected))
    assert (b.training.optimizer_steps, b.training.learning_rate) == (40, 8e-3)
    assert b.training.lora.targets == ["q_proj"]


@pytest.mark.parametrize(
    "section", ["training: null", "training: ", "training: {lora: ~}", "data: {}"]
)
def test_an_empty_section_of_a_variant_is_as_if_not_written(tmp_path, section):
    [variant] = grid(tmp_path, f"variants: {{a: {{{section}}}}}").variants
    assert variant.config == DEMO


def test_a_sweep_makes_a_variant_of_each_value(tmp_path):
    text = "x: sampling.kl_threshold\nvalues: [0.02, 1.6]\nvariants: {as-it-is: {}}\n"
    read = grid(tmp_path, text)
    assert [(v.name, v.value) for v in read.variants] == [
        ("as-it-is", DEMO.sampling.kl_threshold),
        ("kl_threshold-0.02", 0.02),
        ("kl_threshold-1.6", 1.6),
    ]
    assert read.variants[2].config.sampling.kl_threshold == 1.6


def test_amateurs_are_beside_the_grid_or_in_the_folder_named(tmp_path):
    text = "x: models.amateur\nvalues: [weak, 'embedded:amateur', org/name]\n"
    (tmp_path / "weak").mkdir()
    (tmp_path / "else" / "weak").mkdir(parents=True)
    for folder, found in ((None, tmp_path), (str(tmp_path / "else"), tmp_path / "else")):
        read = grid(tmp_path, text, amateurs=folder)
        assert [v.name for v in read.variants] == ["weak", "embedded-amateur", "name"]
        amateurs = [v.config.models.amateur for v in read.variants]
        assert amateurs == [str(found / "weak"), "embedded:amateur", "org/name"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("variants: {a: {sampling.kl_treshold: 1}}", r"mine\.yaml: variant a: unknown key sampling\.kl_treshold; did you mean sampling\.kl_threshold\?"),
        ("variants: {a: {smapling: {seed: 1}}}", r"variant a: unknown key smapling; did you mean sampling\?"),
        ("varaints: {a: {}}", r"mine\.yaml: unknown key varaints; did you mean variants\?"),
        ("variants: {a: {training.optimizer_steps: 0}}", r"variant a: training\.optimizer_steps = 0: .*greater"),
        ("variants: {a: {training.seed: 1}}", r"variant a: training\.seed is set by the grid's seeds"),
        ("variants: {a: {evaluation: {max_problems: 3}}}", r"variant a: evaluation\.max_problems is one for the whole"),
        ("variants: {a: {rounds: 2}}", r"variant a: rounds is one for the whole comparison"),
        ("variants: {a: {models.expert: x}}", r"variant a: models\.expert is one for the whole comparison"),
        ("variants: {a: {models.chat_template_kwargs: {x: 1}}}", r"variant a: models\.chat_template_kwargs\.x is one for the"),
        ("variants: {a: {untrained: true, sampling.top_k: 3}}", r"variant a: sampling\.top_k has no effect"),
        ("variants: {a: {untrained: 1}}", r"untrained = 1: must be true or false"),
        ("variants: {a/b: {}}", r"variant a/b: a name has letters"),
        ("variants: {a: {training.min_workers: 3x}}", r"variant a: training\.min_workers = 3x: the config has no number"),
        ("variants: {a: {models.amateur: '@models.export'}}", r"the config has no value of models\.export"),
        ("variants: {a: {models.amateur: nowhere}}", r"variant a: models\.amateur: no directory nowhere in .*--amateurs"),
        ("seeds: [1, 1]\nvariants: {a: {}}", r"seeds: \[1, 1\] must be different"),
        ("seeds: []\nvariants: {a: {}}", r"mine\.yaml: seeds = \[\]: "),
        ("seeds: [0]", r"no variants; give variants, or x and values"),
        ("values: [1]", r"values without x"),
        ("x: sampling.top_k\nvalues: [3, 3]", r"two variants are named top_k-3"),
        ("x: sampling\nvariants: {a: {}}", r"x: sampling is not a field with one value"),
        ("variants: &a {b: *a}", r"line 1, column 18: \*a stands inside &a"),
        (f"variants: {{a: {{training.optimizer_steps: {'9' * 400}x}}}}", r"variant a: training\.optimizer_steps = 9{40}\.\.\.: must be a number below 2\*\*63"),
        (f"variants: {{a: {{training.learning_rate: {'9' * 400}x}}}}", r"variant a: training\.learning_rate = 9{40}\.\.\.: must be a number below 2\*\*63"),
        (f"variants: {{a: {{training.optimizer_steps: {'9' * 40}x}}}}", r"variant a: training\.optimizer_steps = "),
        (f"seeds: [{'9' * 400}]\nvariants: {{a: {{}}}}", r"seeds"),
        (f"variants: {{a: {{seeds: [{'9' * 400}]}}}}", r"seeds"),
        (f"x: training.optimizer_steps\nvalues: [{'9' * 400}]", r"values|optimizer_steps"),
        ("x: training.optimizer_steps\nvalues: [.inf]", r"values|optimizer_steps"),
        ("- a", r"must be a mapping"),
        ("a: [", r"not valid YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_the_file_and_the_variant(tmp_path, text, said):
    with pytest.raises(UserError, match=said) as error:
        grid(tmp_path, text)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("--grid ")


def test_no_such_grid():
    with pytest.raises(
        UserError, match=r"no such grid; give a \.yaml file or one of ablations, amateurs, gap"
    ):
        read_grid("abblations", DEMO)
    with pytest.raises(UserError, match=r"nowhere\.yaml: "):
        read_grid("nowhere.yaml", DEMO)


def test_a_variant_may_have_seeds_of_its_own(tmp_path):
    found = grid(tmp_path, "seeds: [3]\nvariants: {a: {seeds: [0, 1]}, b: {}}")
    assert [cell.name for cell in make_plan(DEMO, found).cells] == ["a-0", "a-1", "b-3"]
    with pytest.raises(UserError, match="variant a: seeds = 1: must be a list of numbers"):
        grid(tmp_path, "variants: {a: {seeds: 1}}")


def test_the_amateurs_are_those_of_the_papers_table_and_share_the_experts_trajectories():
    config = resolve(read_tree("qwen2.5-math-7b"))
    grid = read_grid("amateurs", config)
    rows = [row for row in paper().tables["5"].rows if row["expert"] == "Qwen2.5-Math-7B"]
    assert [f"Qwen/{row['amateur']}" for row in rows if row["amateur"]] == [
        v.value for v in grid.variants
    ]
    plan = make_plan(config, grid)
    assert [source.trajectories_of for source in plan.sources] == [None, "base", "base", "base"]


def test_each_rollout_length_is_decoded_anew():
    plan = make_plan(DEMO, read_grid("rollout", DEMO))
    assert [cell.config.sampling.max_new_tokens for cell in plan.cells] == [64, 128, 256]
    assert len({cell.source for cell in plan.cells}) == 3
    assert {source.trajectories_of for source in plan.sources} == {None}
