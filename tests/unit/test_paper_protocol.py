"""What protocol `paper` asks, byte by byte, on a model directory like Qwen2.5-Math's; no engine starts."""

import json
from pathlib import Path

import pytest

from lr_ray.config import EndpointConfig, Evaluation, merge, read_tree, resolve
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation.evaluate import ServedModel, questions
from lr_ray.evaluation.examples import examples
from lr_ray.evaluation.paper import conditions, decided
from lr_ray.evaluation.tasks import load_tasks, task_names
from lr_ray.models.models import load_tokenizer
from lr_ray.pipeline import evaluation
from lr_ray.pipeline.evaluation import evaluate_endpoint
from lr_ray.run.store import SCHEMA_VERSION, Run
from tests.unit.problem_sources import jsonl

END_OF_TEXT, TURN, END_OF_TURN = 151643, 151644, 151645  # of Qwen2.5's tokenizers
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROBLEM = "Ann has {3} pens.\n How many?"
COMPLETION = "Question: Ann has {3} pens.\n How many?\nAnswer: "
CHAT = (
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}."
    "<|im_end|>\n<|im_start|>user\nAnn has {3} pens.\n How many?<|im_end|>\n<|im_start|>assistant\n"
)
MODELS = (
    ServedModel("expert", "base", "base", untrained=True),
    ServedModel("improved", "tuned", "tuned"),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    """Files of a tokenizer whose special tokens have Qwen2.5's names and ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{i}": i for i in range(END_OF_TEXT)}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    assert made.token_to_id("<|im_end|>") == END_OF_TURN
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def model(tokenizer, tmp_path):
    """Makes a model directory: a base model's where its answers end with the end of a text."""

    def make(eos: str, ends: int | list[int], template: str = CHATML) -> str:
        folder = tmp_path / f"{eos}{ends}{len(template)}"
        folder.mkdir()
        (folder / "tokenizer.json").symlink_to(tokenizer / "tokenizer.json")
        said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos}
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        (folder / "config.json").write_text('{"vocab_size": 151936}')
        if template:
            (folder / "chat_template.jinja").write_text(template)
        return str(folder)

    return make


def preset(name: str, path: str, **evaluation) -> Evaluation:
    asked = {"protocol": "paper", "benchmarks": [path], **evaluation}
    return resolve(merge(read_tree(name), {"evaluation": asked})).evaluation


@pytest.fixture
def asked(tmp_path) -> str:
    return jsonl(tmp_path / "own.jsonl", [{"problem": PROBLEM, "answer": "3"}])


def bodies(evaluation: Evaluation, task: int = 0) -> list[dict]:
    return [questions(load_tasks(evaluation)[task], m, evaluation, (7,))[0].body for m in MODELS]


def test_base_and_tuned_model_are_asked_by_the_appendixs_prompts(model, asked):
    path = model("<|endoftext|>", END_OF_TEXT)
    evaluation = decided(preset("qwen2.5-math-1.5b", asked, shots=[2], stop=["x"]), path)
    base, tuned = bodies(evaluation)
    assert base["prompt"] == COMPLETION
    render = load_tokenizer(path).apply_chat_template
    assert render(tuned["messages"], tokenize=False, add_generation_prompt=True) == CHAT
    assert base["stop"] == ["\n\nQuestion:"]
    assert "stop" not in tuned
    fields = {"model", "stop", "prompt", "messages"}
    rest = [{k: v for k, v in body.items() if k not in fields} for body in (base, tuned)]
    assert rest[0] == rest[1]  # the same limits and sampling fields
    assert (base["temperature"], base["max_tokens"], base["top_p"]) == (0, 2048, 1)


def test_an_instruct_expert_is_asked_by_the_chat_prompt(model, asked):
    path = model("<|im_end|>", [END_OF_TURN, END_OF_TEXT])
    first, second = bodies(decided(preset("qwen2.5-math-7b-instruct", asked), path))
    assert first["messages"] == second["messages"]
    assert "prompt" not in first


@pytest.mark.parametrize(
    ("eos", "ends", "template", "expected"),
    [
        ("<|endoftext|>", END_OF_TEXT, CHATML, "completion"),  # Qwen2.5-Math-1.5B
        ("<|im_end|>", [END_OF_TURN, END_OF_TEXT], CHATML, "chat"),  # its instruct version
        ("<|endoftext|>", [END_OF_TURN, END_OF_TEXT], CHATML, "chat"),
        ("<|endoftext|>", END_OF_TEXT, "", "completion"),
    ],
)
def test_auto_asks_a_model_as_a_chat_where_a_turns_end_ends_its_answers(
    model, eos, ends, template, expected
):
    evaluation = decided(Evaluation(protocol="paper"), model(eos, ends, template))
    assert evaluation.paper.expert_prompt == expected


@pytest.mark.parametrize("ends", [END_OF_TEXT, [END_OF_TURN, END_OF_TEXT], [5]])
def test_answers_end_with_turn_and_text_whatever_generation_config_says(model, asked, ends):
    evaluation = preset("qwen2.5-math-1.5b", asked)
    found = decided(evaluation, model("<|endoftext|>", ends))
    for body in bodies(found):
        assert body["extra_body"]["stop_token_ids"] == [END_OF_TEXT, END_OF_TURN]
    assert conditions(found)["stop_token_ids"] == [END_OF_TEXT, END_OF_TURN]
    own = preset("qwen2.5-math-1.5b", asked, paper={"stop_token_ids": [9]})
    kept = decided(own, model("<|endoftext|>", [6]))
    assert (kept.paper.expert_prompt, kept.paper.stop_token_ids) == ("completion", [9])


def test_mmlu_stem_has_five_examples_and_no_other_benchmark_has(tmp_path, model):
    (tmp_path / "mmlu_stem").mkdir()
    (tmp_path / "gsm8k").mkdir()
    row = {"question": "1+1?", "choices": ["1", "2", "3", "4"], "answer": 1, "subject": "astronomy"}
    jsonl(tmp_path / "mmlu_stem/test.jsonl", [row])
    jsonl(tmp_path / "gsm8k/test.jsonl", [{"question": "1+1?", "answer": "#### 2"}])
    names = {"benchmarks": ["mmlu_stem", "gsm8k"], "data_dir": str(tmp_path)}
    evaluation = decided(
        preset("qwen2.5-math-1.5b", "", **names), model("<|endoftext|>", END_OF_TEXT)
    )
    assert task_names(evaluation) == ["mmlu_stem-5-shot-paper", "gsm8k-paper"]
    base, tuned = bodies(evaluation)
    shown = examples("choice", 5)
    problem = "1+1?\nAnswer Choices: (A) 1 (B) 2 (C) 3 (D) 4"
    parts = base["prompt"].split("\n\n\n")
    assert parts[:5] == [f"Question: {e.problem}\nAnswer: {e.solution}" for e in shown]
    assert parts[5:] == [f"Question: {problem}\nAnswer: "]
    _, user = tuned["messages"]
    given = user["content"].split("\n\n")
    assert given == [*(f"{e.problem}\n{e.solution}" for e in shown), problem]
    assert bodies(evaluation, 1)[0]["prompt"] == "Question: 1+1?\nAnswer: "


def test_under_both_protocols_the_same_one_is_as_it_was(model, asked):
    alone = preset("qwen2.5-math-1.5b", asked, protocol="same", shots=[0, 1])
    path = model("<|endoftext|>", END_OF_TEXT)
    assert decided(alone, path) is alone
    both = decided(alone.model_copy(update={"protocol": "both"}), path)
    assert task_names(both) == ["own", "own-1-shot", "own-paper"]
    for task in (0, 1):
        assert bodies(both, task) == bodies(alone, task)
        assert all(body["extra_body"]["stop_token_ids"] == [7] for body in bodies(both, task))


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        ({"protocol": "papr"}, "evaluation.protocol"),
        ({"paper": {"expert_prompt": "base"}}, "evaluation.paper.expert_prompt"),
        ({"paper": {"stop_token_ids": [-1]}}, "evaluation.paper.stop_token_ids"),
        ({"paper": {"expert_promt": "chat"}}, "did you mean"),
        ({"shots": [9]}, "evaluation.shots"),
        ({"protocol": "both", "prefill": "So"}, "prefill = 'So': protocol paper begins no answer"),
    ],
)
def test_a_wrong_value_is_one_line(evaluation, said):
    with pytest.raises(UserError) as error:
        resolve(merge(read_tree("demo"), {"evaluation": evaluation}))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_endpoint_needs_to_be_told_what_its_first_model_is():
    tree = {
        "endpoint": "http://127.0.0.1:1/v1",
        "models": ["a"],
        "evaluation": {"protocol": "paper"},
    }
    with pytest.raises(UserError, match=r"expert_prompt = auto: .*give completion or chat$"):
        resolve(tree, EndpointConfig)
    told = {"protocol": "paper", "paper": {"expert_prompt": "chat"}}
    assert resolve({**tree, "evaluation": told}, EndpointConfig).evaluation.protocol == "paper"


def test_an_evaluation_of_an_endpoint_from_before_there_were_protocols_stays_finished(tmp_path):
    asked = read_tree("qwen2.5-math-1.5b")["evaluation"]
    tree = {"endpoint": "http://127.0.0.1:1/v1", "models": ["a"], "evaluation": asked}
    config, run = resolve(tree, EndpointConfig), Run(str(tmp_path))
    before = config.model_dump(mode="json")
    del before["evaluation"]["protocol"], before["evaluation"]["paper"]
    run.write_json("run.json", {"schema_version": SCHEMA_VERSION, "config": before})
    run.write_json("summary.json", {"accuracy": {}})
    run.write_bytes("report.html", b"")
    assert evaluate_endpoint(config, run) == 0
    paper = resolve({**tree, "evaluation": {**asked, "protocol": "paper"}}, EndpointConfig)
    with pytest.raises(UserError, match=r"another evaluation\.protocol = same \(now paper\)"):
        evaluate_endpoint(paper, run)


def test_a_password_of_an_endpoint_is_not_kept(tmp_path, monkeypatch, capsys):
    asked: list[str] = []
    monkeypatch.setattr(evaluation, "check_endpoint", lambda url, *_: asked.append(url))
    monkeypatch.setattr(evaluation, "load_tasks", lambda _: [])

    def asking(run, console, groups, there, *_):
        with there(groups[0]) as url:
            asked.append(url)
        raise StageError(groups[0][0].identity)

    monkeypatch.setattr(evaluation, "run_evaluation", asking)
    url, run = "http://me:secret@here:1/v1", Run(str(tmp_path / "run"))
    with pytest.raises(StageError) as error:
        evaluate_endpoint(resolve({"endpoint": url, "models": ["a"]}, EndpointConfig), run)
    assert asked == [url, url]
    kept = (tmp_path / "run/run.json").read_text()
    assert "http://***@here:1/v1" in kept
    assert "secret" not in kept + capsys.readouterr().out + str(error.value)


def test_the_presets_of_the_paper_say_how_their_expert_is_asked():
    names = {"qwen2.5-math-1.5b", "qwen2.5-math-7b"}
    chats = {f"{name}-instruct" for name in names} | {"deepseek-r1-distill-qwen-1.5b"}
    found = {n: resolve(read_tree(n)).evaluation.paper.expert_prompt for n in names | chats}
    assert found == dict.fromkeys(names, "completion") | dict.fromkeys(chats, "chat")
