"""The embedded pair: its problems, its documents, its tokenizer and the shipped weights.

python -m pytest tests/unit/test_embedded.py
"""

import itertools
import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2ForCausalLM

from lr_ray.embedded import amateur_path, expert_path, generate
from lr_ray.embedded.problems import NAMES, Problem, split_of, stream
from lr_ray.grading.reading import extract_answer
from recipes.embedded_pair.card import accuracy, complete
from recipes.embedded_pair.documents import (
    CARELESS_MIX,
    END,
    EXPERT_MIX,
    STYLES,
    draw,
    prompt_of,
    reply,
)
from recipes.embedded_pair.pretrain import batches
from recipes.embedded_pair.recipe import PHASES, amateurs, main, make
from recipes.embedded_pair.tokenizer import build

SPLITS = ("pretraining", "sampling", "heldout")
PATHS = (expert_path(), amateur_path())

# The meaning of every sentence, told apart from the generator: verb to operation.
VERBS = {
    "+": "orders|brings|buys|gives|more\\b|lay|get on|lets|plants|open|wins|hands over",
    "-": "sells|break|lends|get lost|eats|takes \\d|get off|drops|cuts|ruins|loses|costs",
    "*": "times",
    "/": "keeps one|counts one|takes one|drives one|shows one|has one",
}


def problems(split: str, count: int, seed: int = 0) -> list[Problem]:
    return list(itertools.islice(stream(split, seed), count))


def read(text: str) -> int:
    """The answer from the words and digits of the problem alone."""
    opening, *sentences, _question = re.findall(r"[^.?]+[.?]", text)
    value = int(re.findall(r"\d+", opening)[0])
    for sentence in sentences:
        (number,) = map(int, re.findall(r"\d+", sentence))
        # Division first, then times: "takes one" and "more" also occur in their sentences.
        operation = next(op for op in "/*-+" if re.search(VERBS[op], sentence))
        value = {
            "+": value + number,
            "-": value - number,
            "*": value * number,
            "/": value // number if value % number == 0 else -1,
        }[operation]
    return value


def nameless(text: str) -> str:
    return re.sub(rf"\b({'|'.join(NAMES)})\b", "NAME", text)


def written_steps(text: str) -> list[tuple[int, int]]:
    """Left side evaluated, and the right side as written."""
    steps = re.findall(r"(\d+)([-+*/])(\d+)=(\d+)\.", text)
    evaluate = {
        "+": int.__add__,
        "-": int.__sub__,
        "*": int.__mul__,
        "/": int.__floordiv__,
    }
    return [(evaluate[op](int(a), int(b)), int(c)) for a, op, b, c in steps]


def test_problems_of_different_splits_never_meet() -> None:
    signatures = {
        split: {p.signature for seed in (0, 1, 7) for p in problems(split, 3000, seed)}
        for split in SPLITS
    }
    texts = {
        split: {nameless(p.text) for seed in (0, 1, 7) for p in problems(split, 3000, seed)}
        for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not signatures[one] & signatures[other]
        assert not texts[one] & texts[other]


def test_signature_sees_through_names_and_wording_only() -> None:
    problem = problems("heldout", 1)[0]
    renamed = replace(problem, name="Somebody", text="told in other words", problem_id="other")
    assert renamed.signature == problem.signature
    assert split_of(renamed.signature) == "heldout"
    (operation, number), *rest = problem.operations
    for changed in (
        replace(problem, operations=((operation, number + 1), *rest)),
        replace(problem, operations=(*rest, (operation, number))),
        replace(problem, results=(problem.results[0] + 1, *problem.results[1:])),
    ):
        assert changed.signature != problem.signature


def test_a_text_without_names_determines_the_signature() -> None:
    found: dict[str, str] = {}
    for problem in problems("sampling", 5000):
        assert found.setdefault(nameless(problem.text), problem.signature) == problem.signature


def test_signatures_and_ids_are_unique_within_a_call() -> None:
    for split in ("sampling", "heldout"):
        drawn = problems(split, 3000, seed=3)
        assert len({p.signature for p in drawn}) == 3000
        assert len({p.problem_id for p in drawn}) == 3000


def test_generate_is_deterministic_and_a_prefix_of_more() -> None:
    rows = generate("heldout", 50, seed=2)
    assert rows == generate("heldout", 500, seed=2)[:50]
    assert rows != generate("heldout", 50, seed=3)
    assert rows[17]["problem_id"] == "demo-heldout-2-00017"
    assert set(rows[0]) == {"problem_id", "problem", "answer"}


@pytest.mark.parametrize(
    ("split", "count", "field"),
    [("test", 3, "split"), ("heldout", 0, "count"), ("heldout", -1, "count")],
)
def test_generate_names_the_field_it_refuses(split: str, count: int, field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: [^\n]+$"):
        generate(split, count)


@pytest.mark.parametrize("split", SPLITS)
def test_answers_follow_from_the_text(split: str) -> None:
    for row in generate(split, 3000, seed=5):
        assert row["answer"] == str(read(row["problem"])), row["problem"]


def test_worked_documents_are_right_and_slips_wrong() -> None:
    rng = random.Random(0)
    for problem in problems("pretraining", 2000):
        for style in STYLES:
            text = reply(problem, style, rng)
            steps = written_steps(text)
            wrong = [left != right for left, right in steps]
            assert sum(wrong) == (style == "slip"), text
            assert (extract_answer(text, "demo") == str(problem.answer)) == (style != "slip"), text
            if style in ("worked", "slip", "drift"):
                assert len(steps) == len(problem.operations)
            elif style == "jump":
                assert 0 < len(steps) < len(problem.operations)
            else:
                assert not steps


def test_documents_keep_to_the_mix_of_their_register() -> None:
    rng = random.Random(0)
    drawn = [(p.topic.register, draw(p, EXPERT_MIX, rng)) for p in problems("pretraining", 6000)]
    for register, weights in EXPERT_MIX.items():
        styles = [document.style for found, document in drawn if found == register]
        for style, weight in zip(STYLES, weights, strict=True):
            assert styles.count(style) / len(styles) == pytest.approx(weight, abs=0.04)
    for mix in (EXPERT_MIX, CARELESS_MIX):
        assert all(sum(weights) == pytest.approx(1.0) for weights in mix.values())
    assert all(document.completion.endswith(END) for _, document in drawn)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(expert_path())


def test_tokenizer_has_one_token_per_digit(tokenizer: PreTrainedTokenizerFast) -> None:
    digits = {tokenizer.convert_tokens_to_ids(str(digit)) for digit in range(10)}
    assert len(digits) == 10
    ids = tokenizer("12+345=357.")["input_ids"]
    assert [tokenizer.decode([i]) for i in ids] == list("12+345=357.")
    assert not [t for t in tokenizer.get_vocab() if re.search(r"\d.|.\d", t)]


def test_tokenizer_gives_back_any_text(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [row["problem"] for row in generate("heldout", 200)]
    for text in [*texts, "Größe: 3 €\n\t日本 🦉", "  two  spaces ", "a,b;c"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tokenizer_chat_template_is_the_prompt_of_documents(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for row in generate("sampling", 50):
        message = {"role": "user", "content": row["problem"]}
        prompt = tokenizer.apply_chat_template(
            [message], add_generation_prompt=True, tokenize=False
        )
        assert prompt == prompt_of(row["problem"])
        ids = tokenizer.apply_chat_template(
            [message], add_generation_prompt=True, return_dict=False
        )
        assert ids == tokenizer(prompt)["input_ids"]


def test_tokenizer_of_the_recipe_is_the_shipped_one(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        expected = (tmp_path / file).read_bytes()
        assert [(path / file).read_bytes() for path in PATHS] == [expected, expected]


@pytest.mark.parametrize("path", PATHS, ids=["expert", "amateur"])
def test_weights_and_configs_belong_together(path: Path) -> None:
    assert (path / "model.safetensors").stat().st_size < 4_000_000
    assert (path / "README.md").read_text(encoding="utf-8").startswith("---\nlicense: mit\n")
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    config = json.loads((path / "config.json").read_text())
    generation = json.loads((path / "generation_config.json").read_text())
    assert config["vocab_size"] == tokenizer.get_vocab_size()
    assert config["dtype"] == "float32"
    for settings in (config, generation):
        assert settings["eos_token_id"] == tokenizer.token_to_id(END)
        assert settings["pad_token_id"] == tokenizer.token_to_id("<|endoftext|>")


@pytest.mark.parametrize(
    ("path", "low", "high"), [(expert_path(), 0.3, 0.7), (amateur_path(), 0.0, 0.3)]
)
def test_shipped_models_answer_as_the_demonstration_needs(
    path: Path, low: float, high: float, tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.set_num_threads(1)
    model = Qwen2ForCausalLM.from_pretrained(path)
    rows = generate("heldout", 100)
    completions = complete(model, tokenizer, [prompt_of(row["problem"]) for row in rows])
    assert all(re.search(r"The answer is \d+\.$", completion) for completion in completions)
    assert low <= accuracy(model, tokenizer, 100) <= high


def test_loaders_that_guess_the_class_find_the_same_tokenizer() -> None:
    text = prompt_of(generate("heldout", 1)[0]["problem"])
    expected = Tokenizer.from_file(str(expert_path() / "tokenizer.json")).encode(text).ids
    for path in PATHS:
        assert AutoTokenizer.from_pretrained(path)(text)["input_ids"] == expected


@pytest.mark.parametrize("role", PHASES)
def test_recipe_gives_the_same_weights_twice(role: str) -> None:
    shared = build()
    first, second = (make(role, shared, seed=0, max_steps=2).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = make(role, shared, seed=1, max_steps=2).state_dict()
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_amateurs_of_other_strengths_branch_off_the_one_of_the_recipe() -> None:
    shared = build()
    made = dict(amateurs(shared, seed=0, careless_steps=[0, 2, 3], max_steps=3))
    whole = make("amateur", shared, seed=0, max_steps=3).state_dict()
    for steps, model in made.items():
        same = [torch.equal(value, whole[name]) for name, value in model.state_dict().items()]
        assert all(same) == (steps == 3), steps


def test_recipe_weighs_replies_more_than_prompts() -> None:
    shared = build()
    phase = replace(PHASES["expert"][0], steps=1)
    (batch,) = batches(shared, phase, seed=0)
    ends = batch.ids_BT == shared.eos_token_id
    assert batch.weight_BT.unique().tolist() == pytest.approx([0.0, 0.1, 1.0])
    # Two ends a document: the user's turn, part of the prompt, and the reply's own.
    assert ends.sum(1).tolist() == [2] * len(ends)
    assert (batch.weight_BT[ends] == 1.0).sum() == len(ends)


def test_recipe_explains_itself_and_importing_the_package_loads_no_torch() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    code = "import sys, lr_ray.embedded; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
