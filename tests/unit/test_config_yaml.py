"""YAML files as they are meant: keys once, numbers as written, UTF-8, empty sections, helpers."""

import os
import subprocess
import sys

import pytest

from lr_ray.config import Config, read_tree, resolve
from lr_ray.errors import UserError
from lr_ray.experiments.grid import read_grid
from lr_ray.yaml_text import YamlError, load

MODELS = 'models: {expert: "embedded:expert", amateur: "embedded:amateur"}\n'


def config_of(folder, text: str | bytes) -> Config:
    file = folder / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else (MODELS + text).encode())
    return resolve(read_tree(str(file)))


def refusal(folder, text: str) -> str:
    with pytest.raises(UserError) as error:
        config_of(folder, text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {seed: 1}\ndata: {seed: 2}", "line 3: data is there twice (also in line 2)"),
        ("data:\n  seed: 1\n  shuffle: true\n  seed: 1", "line 5: seed is there twice (also in line 3)"),
        ("data: {fields: {id: a, 'id': b}}", "line 2: id is there twice;"),
        ('data: {seed: 1}\n"data": {}', "data is there twice"),
        ("x-a: &a {rank: 1, rank: 2}\ntraining: {lora: *a}", "rank is there twice"),
        ("x-a: &a {rank: 1, rank: 2}\ntraining: {lora: {<<: *a, alpha: 3}}", "rank is there twice"),
        ("x-a: &a {rank: 1}\ntraining: {lora: {<<: *a, <<: *a}}", "<< is there twice"),
        ("evaluation:\n  - {seed: 1, seed: 2}", "seed is there twice"),
        ("resources: {expert: {custom: {1: 2, 1: 3}}}", "1 is there twice"),
        (MODELS, "models is there twice"),
    ],
)  # fmt: skip
def test_a_key_twice_is_named_with_its_lines(tmp_path, text, said):
    assert said in refusal(tmp_path, text)


def test_a_key_beside_a_merge_overrides_what_it_brings(tmp_path):
    text = """
x-small: &small {rank: 2, alpha: 4}
x-twice: &twice {<<: *small, alpha: 5}
training: {lora: {<<: [*twice, {dropout: 0.5}], rank: 3}}
"""
    lora = config_of(tmp_path, text).training.lora
    assert (lora.rank, lora.alpha, lora.dropout) == (3, 5, 0.5)


@pytest.mark.parametrize(
    "written",
    ["yes", "on", "true", "No", "0100", "00", "8:00", "1:30:00", "1_000", "0b11", "'1,000'", "ten",
     '"0100"', "2026-01-01", "'yes'", "'1_000'", "9223372036854775808", "0o9", "١٢"],
)  # fmt: skip
def test_what_only_passes_for_a_number_is_refused_where_one_is_due(tmp_path, written):
    assert "sampling.max_problems" in refusal(tmp_path, f"sampling: {{max_problems: {written}}}")
    assert "evaluation.shots" in refusal(tmp_path, f"evaluation: {{shots: [{written}]}}")
    assert "custom" in refusal(tmp_path, f"resources: {{expert: {{custom: {{a: {written}}}}}}}")


@pytest.mark.parametrize("written", [".inf", "-.INF", ".nan", "1e400", "inf", "true", "0.1.2"])
def test_what_is_no_finite_number_is_refused(tmp_path, written):
    assert "training.max_grad_norm" in refusal(tmp_path, f"training: {{max_grad_norm: {written}}}")


@pytest.mark.parametrize(
    ("written", "number"),
    [("100", 100), ("+100", 100), ("0x64", 100), ("0o144", 100), ("1e2", 100), ("1.0E+2", 100),
     ('"100"', 100), ("100.", 100)],
)  # fmt: skip
def test_numbers_are_those_of_the_core_schema(tmp_path, written, number):
    assert (
        config_of(tmp_path, f"sampling: {{max_problems: {written}}}").sampling.max_problems
        == number
    )


def test_words_that_yaml_once_took_for_others_stay_text(tmp_path):
    text = "data: {fields: {problem: on, id: 0100, answer: 8:00}}\nsampling: {system_prompt: no}"
    config = config_of(tmp_path, text)
    assert (config.data.fields.problem, config.data.fields.id) == ("on", "0100")
    assert (config.data.fields.answer, config.sampling.system_prompt) == ("8:00", "no")


def test_a_file_is_utf8_whatever_the_locale(tmp_path):
    prompt = "Réponds brièvement 🍎 答"
    text = f'{MODELS}sampling: {{system_prompt: "{prompt}"}}'
    assert config_of(tmp_path, b"\xef\xbb\xbf" + text.encode()).sampling.system_prompt == prompt
    code = (
        "import sys; from lr_ray.cli.front import guarded; from lr_ray.config import read_tree, resolve\n"
        "said = lambda: print(resolve(read_tree(sys.argv[1])).sampling.system_prompt)\n"
        "sys.exit(guarded(said) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "mine.yaml")],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        check=True,
    )
    assert (
        done.stdout.decode("ascii").strip() == prompt.encode("ascii", "backslashreplace").decode()
    )


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_named(tmp_path, encoding):
    with pytest.raises(UserError, match="not UTF-8 text at byte"):
        config_of(tmp_path, "sampling: {system_prompt: é}".encode(encoding))


def test_what_is_no_file_on_a_disk_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "null.yaml").symlink_to("/dev/null")
    (tmp_path / "folder.yaml").mkdir()
    config = config_of(tmp_path, "")
    pipe, folder, none = "a pipe or device", "Is a directory", "No such file"
    for name, said in {"pipe": pipe, "null": pipe, "folder": folder, "none": none}.items():
        with pytest.raises(UserError, match=rf"^--config .*/{name}\.yaml: {said}"):
            read_tree(str(tmp_path / f"{name}.yaml"))
        with pytest.raises(UserError, match=rf"^--grid .*/{name}\.yaml: {said}"):
            read_grid(str(tmp_path / f"{name}.yaml"), config)


def test_a_file_that_is_no_config_by_its_size_is_refused_at_once(tmp_path):
    with pytest.raises(
        UserError, match=r"mine\.yaml: has 300\d{3} bytes; must have 200000 at most"
    ):
        config_of(tmp_path, "#" * 300_000)


def test_a_line_names_the_first_few_of_many_errors(tmp_path):
    said = refusal(tmp_path, f"evaluation: {{benchmarks: [{', '.join(['1'] * 100)}]}}")
    assert said.count("must be") + said.count("should be") == 8
    assert said.endswith("; and 92 more")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training.seed: 3", "unknown key training.seed; write seed below training"),
        (
            "training: {lora.rank: 3}",
            "unknown key training.lora.rank; write rank below training.lora",
        ),
    ],
)
def test_a_key_as_an_option_has_it_is_told_its_place(tmp_path, text, said):
    assert refusal(tmp_path, text).endswith(said)


def test_a_link_to_a_file_is_the_file(tmp_path):
    (tmp_path / "link.yaml").symlink_to("mine.yaml")
    assert config_of(tmp_path, "data: {seed: 7}") == resolve(read_tree(str(tmp_path / "link.yaml")))


def test_an_empty_section_is_as_if_not_written(tmp_path):
    text = (
        "training:\nsampling: {expert: , rejection: ~}\nresources: {server: {custom: }}\ndata: null"
    )
    assert config_of(tmp_path, text) == config_of(tmp_path, "")
    assert "learning_rate = None" in refusal(tmp_path, "training: {learning_rate: }")


@pytest.mark.parametrize("text", [b"models:\n", b"# nothing", b"", b"x-models: {expert: a}"])
def test_what_is_missing_is_named_with_its_options(tmp_path, text):
    with pytest.raises(UserError, match=r"models is missing; give --models.expert and --models.am"):
        config_of(tmp_path, text)


def test_helpers_are_left_out_in_every_section(tmp_path):
    text = "x-d: &d {dtype: float32}\ntraining: {<<: *d, x-note: tuned}\nsampling: {expert: *d}"
    config = config_of(tmp_path, text)
    assert config.training.dtype == config.sampling.expert.dtype == "float32"
    grid = tmp_path / "grid.yaml"
    grid.write_text("x-r: &r {sampling.seed: 3}\nvariants: {a: {sampling.selection: all}}\n")
    assert [v.name for v in read_grid(str(grid), config).variants] == ["a"]


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: \x00", "? [a]\n: b", "[" * 3000, "a: !!python/object:os.system x", "--- 1\n--- 2",
     f"a: {'9' * 5000}", "a\tb: 1", "a: !!timestamp 2026-99-99", "!!timestamp", "a: *b", "a: !!int x", "a: b: c", "a: !!bool maybe",
     f"a: !!bool {'x' * 5000}", "a: &b {c: *b}", "&a [*a]", "a: &b [{c: [*b]}]", "&a {<<: *a}", "a: &b {*b : c}"],
)  # fmt: skip
def test_what_is_no_yaml_is_one_line(text):
    with pytest.raises(YamlError) as error:
        load(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_number_of_thousands_of_digits_is_named_by_its_place():
    with pytest.raises(YamlError, match=r"line 2, column 4: a number of 5000 digits; must have"):
        load(f"a: 1\nb: {'9' * 5000}")


@pytest.mark.parametrize(
    "text", ["training: 5", "training: [a]", "training: *t", "x-t: &t [*t]\ntraining: *t"]
)
def test_a_section_that_is_no_mapping_is_one_line(tmp_path, text):
    refusal(tmp_path, text)


@pytest.mark.parametrize("text", [r'"\ud83d"', r'"a\0b"'])
def test_text_is_unicode(tmp_path, text):
    assert "sampling.system_prompt" in refusal(tmp_path, f"sampling: {{system_prompt: {text}}}")


@pytest.mark.parametrize(
    "text", [r'"in \boxed{}"', r'"\frac"', r'"2 \times 3"', r'"\text{so}"', r'"\alpha"']
)
def test_latex_whose_backslash_double_quotes_have_eaten_is_no_text(tmp_path, text):
    said = refusal(tmp_path, f"sampling: {{system_prompt: {text}}}")
    assert said.endswith("without control characters such as \\b of \\boxed in double quotes")
    kept = config_of(tmp_path, f"sampling: {{system_prompt: {text.replace(chr(34), chr(39))}}}")
    assert kept.sampling.system_prompt == text[1:-1]


@pytest.mark.parametrize("name", ["system_prompt", "max_model_len"])
def test_none_of_python_is_no_null_of_yaml(tmp_path, name):
    assert f"sampling.{name} = 'None': must be" in refusal(tmp_path, f"sampling: {{{name}: None}}")


def test_a_grids_field_in_two_spellings_is_there_twice(tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text("variants: {a: {training.seeds: 1, training: {seeds: 2}}}")
    with pytest.raises(UserError, match=r"variant a: training\.seeds is there twice"):
        read_grid(str(grid), config_of(tmp_path, ""))


@pytest.mark.parametrize("name", ["auto", "number"])
def test_a_key_that_is_named_as_a_branch_of_a_field_is_an_unknown_key(name):
    with pytest.raises(UserError, match=rf"unknown key {name};"):
        resolve({"models": {"expert": "a", "amateur": "b"}, name: None})
