"""The command line's texts as they were typed."""

import pytest

from lr_ray.cli.options import parse
from lr_ray.config import EndpointConfig, ServeConfig
from lr_ray.errors import UserError


def evaluation(*arguments: str):
    return parse("", ["--config", "demo", *arguments]).config.evaluation


@pytest.mark.parametrize(
    "text",
    ["\n\n", "\nQuestion:", "[", "]", "{", "a,b", ",", '"', '"a"', r"a\nb", " x ", "None", "null",
     "true", "1", "a\nb", "[a", "[a]", "[1]", "a[0]", "<|im_end|>", "\\", "\t", "é🍎", "{}", "'"],
)  # fmt: skip
def test_a_stop_is_the_text_as_typed(text):
    assert evaluation(f"--evaluation.stop={text}").stop == [text]
    assert evaluation("--evaluation.stop", "x", "--evaluation.stop", text).stop == ["x", text]


@pytest.mark.parametrize(
    ("text", "stops"),
    [(r'["\n\n"]', ["\n\n"]), ('["\n\n"]', ["\n\n"]), ('["a,b", "]"]', ["a,b", "]"]), ("[]", [])],
)
def test_stops_may_be_a_json_list(text, stops):
    assert evaluation("--evaluation.stop", text).stop == stops


def test_an_empty_stop_is_refused():
    with pytest.raises(UserError, match=r"evaluation\.stop"):
        evaluation("--evaluation.stop", "")


@pytest.mark.parametrize(
    "text", ["\n\nfoo", " a ", "[", '["a"]', '{"a": 1}', "a,b", "null", "0100"]
)
def test_a_text_is_itself(text):
    config = parse("", ["--config", "demo", f"--sampling.system_prompt={text}"]).config
    assert config.sampling.system_prompt == text


def test_none_is_null_where_null_is_possible():
    arguments = ["--sampling.system_prompt", "None", "--data.source", "None"]
    config = parse("", ["--config", "demo", *arguments]).config
    assert (config.sampling.system_prompt, config.data.source) == (None, "None")


@pytest.mark.parametrize(
    "text", ["0100", "1_000", "8:00", "yes", "inf", "1e400", "9" * 5000, "None", ""]
)
def test_what_only_passes_for_a_number_is_one_line(text):
    with pytest.raises(UserError) as error:
        parse("", ["--config", "demo", f"--training.max_grad_norm={text}"])
    assert str(error.value).startswith("config: training.max_grad_norm")
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("field", ["training.learning_rate", "training.optimizer_steps"])
@pytest.mark.parametrize(
    "text",
    ["1e400", "-1e400", "1e1000000", "-1e1000000", "1e99999999999999999999", "9223372036854775808",
     "-1e99999999999999999999"],
)  # fmt: skip
def test_a_number_of_any_exponent_is_one_line(field, text):
    with pytest.raises(UserError) as error:
        parse("", ["--config", "demo", f"--{field}={text}"])
    assert str(error.value) == f"config: {field} = {text!r}: must be a number below 2**63"


@pytest.mark.parametrize(
    "text", ["1e-1000000", "1e-99999999999999999999", "0e99999999999999999999"]
)
def test_a_number_that_is_as_good_as_0_is_0(text):
    assert parse("", ["--config", "demo", f"--sampling.kl_threshold={text}"]).config.sampling.kl_threshold == 0  # fmt: skip


def test_commas_are_between_names_and_inside_paths_that_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.jsonl", "c,d,e.jsonl", "[x].jsonl"):
        (tmp_path / name).write_text("")
    of = lambda text: evaluation("--evaluation.benchmarks", text).benchmarks  # noqa: E731
    assert of("a,b.jsonl") == ["a,b.jsonl"]
    assert of("demo,a,b.jsonl,c,d,e.jsonl, gsm8k") == ["demo", "a,b.jsonl", "c,d,e.jsonl", "gsm8k"]
    assert of("*,b.jsonl") == ["*,b.jsonl"]
    assert of("[x].jsonl,demo") == ["[x].jsonl", "demo"]
    assert of('["s3://b/a,b.jsonl", "demo"]') == ["s3://b/a,b.jsonl", "demo"]
    assert of("[demo,gsm8k]") == ["demo", "gsm8k"]
    assert of('"s3://b/a,b.jsonl",demo') == ["s3://b/a,b.jsonl", "demo"]
    assert evaluation("--evaluation.shots", "0,4").shots == [0, 4]
    assert (
        parse("", ["--config", "demo", "--data.source", "a,b.jsonl"]).config.data.source
        == "a,b.jsonl"
    )


@pytest.mark.parametrize("text", ["demo,", ",demo", "demo,,gsm8k", " "])
def test_nothing_beside_a_comma_is_named(text):
    with pytest.raises(UserError, match=r"^--evaluation\.benchmarks .*nothing beside a comma"):
        evaluation("--evaluation.benchmarks", text)


def served(*arguments: str) -> dict[str, str]:
    return parse("", [*arguments], kind=ServeConfig, defaults={}).config.models


def test_served_models_may_have_commas_in_their_paths(tmp_path):
    (tmp_path / "p,q=r").mkdir()
    assert served("--models", "a=/x, b=/y,z") == {"a": "/x", "b": "/y,z"}
    assert served("--models", f"a={tmp_path}/p,q=r,b=/y") == {"a": f"{tmp_path}/p,q=r", "b": "/y"}
    assert served("--models", "a=/x=1", "--models", "b=/y") == {"a": "/x=1", "b": "/y"}
    assert served("--models", '{"a": "/x,y=z"}') == {"a": "/x,y=z"}


@pytest.mark.parametrize(
    ("text", "said"),
    [("a=/x,a=/y", "a is there twice"), ("/x", "must be NAME=VALUE"), ("a=", "must be NAME=VALUE"),
     ("=/x", "must be NAME=VALUE"), ('{"a": "/x", "a": "/y"}', "a is there twice"),
     ('{"a": ', "must be a JSON object"), ("[", "must be NAME=VALUE")],
)  # fmt: skip
def test_served_models_that_cannot_be_read_are_one_line(text, said):
    with pytest.raises(UserError, match=rf"^--models.*{said}"):
        served("--models", text)


def test_models_of_an_endpoint_are_names_between_commas():
    arguments = ["--endpoint", "http://h/v1", "--models", "org/a, org/b"]
    config = parse("", arguments, kind=EndpointConfig, defaults={}).config
    assert config.models == ["org/a", "org/b"]


def test_a_section_may_be_a_json_object():
    given = parse("", ["--config", "demo", "--sampling", '{"top_k": 7}', "--sampling.seed", "3"])
    assert (given.config.sampling.top_k, given.config.sampling.seed) == (7, 3)
    with pytest.raises(UserError, match=r"--sampling.*must be a JSON object"):
        parse("", ["--config", "demo", "--sampling", "[7]"])


def test_a_section_given_twice_is_both_without_a_field_twice():
    found = evaluation("--evaluation", '{"seed": 3}', "--evaluation", '{"samples": 1}')
    assert (found.seed, found.samples) == (3, 1)
    with pytest.raises(UserError, match=r"^--evaluation: seed is there twice; give it once$"):
        evaluation("--evaluation", '{"seed": 3}', "--evaluation", '{"seed": 4}')


def test_json_that_is_nested_too_deeply_is_no_json():
    deep = "[" * 100_000 + "]" * 100_000
    with pytest.raises(UserError, match=r"^--evaluation .*: must be a JSON object$"):
        evaluation("--evaluation", f'{{"seed": {deep}}}')
    assert evaluation("--evaluation.stop", deep).stop == [deep]


def test_a_word_that_a_field_takes_is_told_beside_a_number():
    with pytest.raises(UserError, match=r"= 'Auto': must be auto or a number, written as 100,"):
        evaluation("--evaluation.concurrency", "Auto")


@pytest.mark.parametrize("value", ["5", '"chat"', "[1]", "true"])
def test_a_field_beside_its_section_that_is_no_object_is_one_line(value):
    with pytest.raises(UserError) as error:
        evaluation("--evaluation", f'{{"paper": {value}}}', "--evaluation.paper.expert_prompt=chat")
    assert str(error.value).startswith("--evaluation.paper.expert_prompt: paper = ")
    assert str(error.value).endswith("must be a JSON object")


def test_a_section_that_is_null_is_empty():
    found = evaluation("--evaluation", '{"fields": null}', "--evaluation.fields.problem", "q")
    assert found.fields.problem == "q"


def test_an_unknown_option_names_the_closest(capsys):
    with pytest.raises(SystemExit):
        parse("", ["--config", "demo", "--samplin.top_k", "7"])
    assert "did you mean --sampling.top_k?" in capsys.readouterr().err
