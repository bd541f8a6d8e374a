"""Variants of problems whose right answer stays, and what they do to accuracy; nothing here starts Ray."""

import random
import re
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from lr_ray.config import Evaluation, merge, read_tree, resolve
from lr_ray.config.sections.evaluation import Perturbation
from lr_ray.errors import UserError
from lr_ray.evaluation.answers import Answer
from lr_ray.evaluation.evaluate import grade
from lr_ray.evaluation.perturbations import PERTURBATIONS, perturbed
from lr_ray.evaluation.results import LABELS, survival
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.grading.pool import Graders
from lr_ray.pipeline.evaluation import write_tables
from lr_ray.report import print_summary, write_page
from lr_ray.run.store import Run
from tests.unit.problem_sources import BENCHMARKS, jsonl, needs_benchmarks

STORY = "Dan has 5 yellow pens in a box. Anna buys 12 pens for $3.50 each. How many pens are there?"


def of(kind, text, answer="7", key="p 0"):
    return perturbed(kind, text, answer, key)


def test_the_setting_names_every_perturbation():
    assert list(PERTURBATIONS) == list(Perturbation.__args__)


def test_an_irrelevant_sentence_stands_before_the_question_or_leans_on_nothing():
    independent = of(
        "irrelevant", "Dan has 5 pens. Eve has 7 pens. How many pens do Dan and Eve have?"
    )
    *_, aside, question = re.split(r"(?<=[.?]) ", independent)
    assert question == "How many pens do Dan and Eve have?"
    assert len(re.findall(r"\d+", aside)) == 2
    leaning = "A pen costs 5 cents. How much do they cost?"
    assert of("irrelevant", leaning).endswith(f". {leaning}")


def test_an_irrelevant_sentence_has_nothing_that_the_problem_counts():
    text = "A room has 5 windows and 3 pictures. How many windows and pictures are there?"
    found = {of("irrelevant", text, key=f"p {seed}") for seed in range(40)}
    assert not any("library" in f or "museum" in f for f in found)
    assert of("irrelevant", f"A library and a museum pay a violinist and painters. {text}") is None


def test_names_are_others_throughout_and_sentences_keep_theirs():
    text = "Dan has 5 pens. Anna has Dan's 3 old pens. How many pens has Dan?"
    found = of("names", text)
    new = re.match(
        r"(\w+) has 5 pens\. (\w+) has (\w+)'s 3 old pens\. How many pens has (\w+)\?", found
    )
    assert new[1] == new[3] == new[4] != "Dan"
    assert new[2] not in ("Anna", new[1])


@pytest.mark.parametrize(
    "text",
    [
        "By Paul Erdos, how many are 3 and 4?",
        "St. Peter saw 5 boats. How many?",
        "He has 5 pens. How many?",
        "Was it found with the Adam optimizer in 5 steps?",
        "By Henry\u2019s law, what is 5 times 3?",
        "Joe has 5 pens. How many pens has joe?",
        "Brian has 5 pens. How many pens has Bryan?",
        "Jake has 5 pens. How many had Jakes?",
        "Daniel has 5 pens. Dan gets 3. How many?",
        r"Daniel has $x_{Daniel} = 3$ pens. How many?",
    ],
)
def test_names_stay_that_are_known_persons_in_formulas_or_written_in_two_ways(text):
    assert of("names", text) is None


def test_names_stay_that_the_choices_have():
    asked = "Mary has 5 pens and Pam 3. What is true?\nAnswer Choices: (A) {} has more. (B) Pam has more."
    assert of("names", asked.format("Mary"), "A") is None
    assert of("names", asked.format("She"), "A") is not None


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("A 5 kg bag and 1 cm.", "A 5 kilograms bag and 1 centimeter."),
        ("It costs $3.50, then $1. So 20% of $1,250?", "It costs 3.50 dollars, then 1 dollar. So 20 percent of 1,250 dollars?"),
        ("At 60 km/h for 30 min.", "At 60 kilometers per hour for 30 minutes."),
        ("5 m/s, 3 m^2, $2 million, $4/hour, a $20 bill, 7 mm2", None),
        ("So $x$ has 5 cm.", None),
        (r"\frac{1}{2} of 5 kg", None),
        ("A mass of 2m and 9(9m + 3t); f(x) = 4x - 5, g(x) = 2x^2", None),
        ("What is 1 + 3 % 3, and 0.2 kg·m^2?", None),
        ("A bag of 1,250 g, 5, 30mph", "A bag of 1,250 grams, 5, 30 miles per hour"),
    ],
)  # fmt: skip
def test_units_are_written_out_behind_numbers_alone(text, written):
    assert of("units", text) == written


def test_typing_errors_swap_two_letters_and_spare_numerals():
    text = "Twelve dozen of seventeen children collected apples near fifteen houses yesterday."
    found = of("typos", text)
    words, given = found.split(), text.split()
    changed = [(a, b) for a, b in zip(given, words, strict=True) if a != b]
    assert len(changed) == 1
    [(before, after)] = changed
    assert sorted(before) == sorted(after)
    assert before not in ("dozen", "seventeen", "fifteen")
    assert (before[0], before.rstrip(".")[-1]) == (after[0], after.rstrip(".")[-1])


@pytest.mark.parametrize("word", ["there", "angles", "tried", "files", "split", "untied"])
def test_a_typing_error_makes_no_other_word(word):
    found = {of("typos", word, key=f"p {seed}") for seed in range(40)}
    assert {"".join(sorted(f)) for f in found} == {"".join(sorted(word))}
    assert not found & {"three", "angels", "tired", "flies", "spilt", "united", None}


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("A pen costs 5 cents. Ann has 12 cents. How many pens can Ann buy?", True),
        ("Ann has 12 cents. She gets 5. How many cents?", False),
        ("Ann has 12 cents. Ann spends 5 cents. How many cents has Ann?", False),
        ("A box holds 3 pens. Ann has 4 of the box kind. How many pens?", False),
        ("Ann has 12 cents. Bob has 5 cents.", False),
        ("Ann has 12 cents. How many cents?", False),
        ("Ann has 12 cents. Bob has 5. How many cents have Ann and Bob?", False),
        ("Ann has 12 cents. Bob has one. How many cents have Ann and Bob?", False),
    ],
)
def test_sentences_change_places_only_where_each_stands_by_itself(text, safe):
    found = of("shuffled", text)
    assert (found is not None) == safe
    if safe:
        first, second, question = re.split(r"(?<=\.) ", text)
        assert found == f"{second} {first} {question}"


def test_capitals_leave_variables_units_and_formulas():
    text = "Find x kilograms of NaCl for 5 kg of water, if $x + y = 3$ and Anna's pH is 7."
    expected = "FIND x KILOGRAMS OF NaCl FOR 5 kg OF WATER, IF $x + y = 3$ AND ANNA'S pH IS 7."
    assert of("capitals", text) == expected
    assert of("capitals", "A Brønsted acid") == "A BRØNSTED ACID"
    cosets = "If ah = ha for h in H, is |aH| = |Ha| for 15 ms, 3 kb and Cu?"
    assert of("capitals", cosets) == "IF ah = ha FOR h IN H, IS |aH| = |Ha| FOR 15 ms, 3 kb AND Cu?"


def test_answers_in_words_and_texts_about_words_keep_their_words():
    for kind in ("names", "typos", "capitals"):
        assert of(kind, STORY, "Anna") is None
        assert of(kind, 'How often is the letter "a" in "Dan and another person"?') is None
        assert of(kind, STORY) is not None
    assert of("preamble", STORY, "Anna").endswith(STORY)


def test_choices_are_never_touched():
    choices = "\nAnswer Choices: (A) 5 kg by Anna (B) another (C) nothing (D) 3 cm"
    for kind in PERTURBATIONS:
        found = of(kind, f"Dan buys 5 kg apples. How many apples has Dan?{choices}", "B")
        assert kind == "shuffled" or (
            found.endswith(choices) and found.count("Answer Choices") == 1
        )


def test_chance_is_of_the_problem_and_the_seed():
    for kind in ("irrelevant", "names", "typos"):
        assert of(kind, STORY) == of(kind, STORY)
        assert len({of(kind, STORY, key=f"p {seed}") for seed in range(20)}) > 1


@needs_benchmarks
@pytest.mark.parametrize("name", ["gsm8k", "math500", "mmlu_stem"])
def test_numbers_formulas_and_choices_of_real_problems_stay(name):
    kinds = list(PERTURBATIONS)
    plain, *variants = load_tasks(
        Evaluation(
            benchmarks=[name], data_dir=str(BENCHMARKS), max_problems=300, perturbations=kinds
        )
    )
    texts = {row["problem_id"]: row for row in plain.rows}
    formula = re.compile(r"\$(?:\\.|[^$\\])*\$") if name == "math500" else re.compile(r"(?!)")
    for task in variants:
        assert task.rows
        for row in task.rows:
            before, after = texts[row["problem_id"]]["problem"], row["problem"]
            assert before != after
            assert row["answer"] == texts[row["problem_id"]]["answer"]
            added = 2 if task.name.endswith("irrelevant") else 0
            numbers = [sorted(re.findall(r"\d+", text)) for text in (before, after)]
            assert len(numbers[1]) == len(numbers[0]) + added
            assert set(formula.findall(before)) <= set(formula.findall(after))
            assert before.partition("Answer Choices:")[2] == after.partition("Answer Choices:")[2]


def test_variants_stand_beside_their_problems(tmp_path):
    path = jsonl(
        tmp_path / "own.jsonl",
        [
            {"problem": "Dan has 5 kg. How many?", "answer": "5"},
            {"problem": "1 + 1?", "answer": "2"},
        ],
    )
    plain, units = load_tasks(Evaluation(benchmarks=[path], perturbations=["units", "shuffled"]))
    assert (plain.name, len(plain.rows), units.name) == ("own", 2, "own-units")
    [row] = units.rows
    assert row == plain.rows[0] | {"problem": "Dan has 5 kilograms. How many?"}
    jsonl(tmp_path / "own-units.jsonl", [{"problem": "1?", "answer": "1"}])
    both = [path, str(tmp_path / "own-units.jsonl")]
    with pytest.raises(
        UserError, match=r"^evaluation\.perturbations: own-units is a benchmark too"
    ):
        load_tasks(Evaluation(benchmarks=both, perturbations=["units"]))


def table(ids, **correct):
    columns = {"problem_id": ids, "sample": [0] * len(ids)}
    return pa.table(columns | {f"{label}_correct": right for label, right in correct.items()})


def test_survival_counts_the_problems_that_have_a_variant():
    original = table(
        list("abcd"), expert=[True, True, False, False], improved=[True, True, True, False]
    )
    variant = table(list("abc"), expert=[True, False, False], improved=[True, True, False])
    found = survival(original, variant, ["expert", "improved"], seed=0)
    assert (found["problems"], found["of"]) == (3, 4)
    expert, improved = found["models"]["expert"], found["models"]["improved"]
    assert (expert["original"], expert["accuracy"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (expert["survive"], improved["survive"]) == (pytest.approx(1 / 2), pytest.approx(2 / 3))
    assert expert["difference"] == pytest.approx(-1 / 3)
    low, high = expert["difference_ci95"]
    assert low <= -1 / 3 <= high
    assert found["differences"]["improved"]["difference"] == pytest.approx(1 / 3)
    nothing = survival(original, None, ["expert", "improved"], seed=0)
    assert (nothing["problems"], nothing["of"], nothing["models"]) == (0, 4, {})


def test_terminal_page_and_summary_show_them_apart_from_the_accuracy(tmp_path, capsys):
    rows = [{"problem": f"Dan has {i} kg. How many?", "answer": str(i)} for i in (5, 6)]
    path = jsonl(tmp_path / "own.jsonl", rows)
    asked = Evaluation(benchmarks=[path], perturbations=["units", "shuffled"])
    run, said = Run(str(tmp_path / "run")), {"own": ["5", "6"], "own-units": ["5", "7"]}
    run.create()
    tasks = load_tasks(asked)
    with Graders() as graders:
        tables = {
            task.name: grade(
                task,
                {label: [Answer(text, "stop") for text in said[task.name]] for label in LABELS},
                graders,
            )
            for task in tasks
        }
    summary = write_tables(run, tasks, tables, asked, list(LABELS)) | {
        "evaluation": {"answers": 8, "seconds": 1.5},
        "seconds_total": 2.0,
    }
    assert list(summary["accuracy"]) == ["own"]
    assert "accuracy_mean" not in summary
    assert summary["perturbations"]["own"]["units"]["models"]["improved"]["survive"] == 0.5
    assert run.exists("evaluation/own-units.parquet")
    write_page(run, summary)
    page = Path(run.path("report.html")).read_text()
    assert "<caption>own</caption>" in page
    assert "(0 of 2)" in page
    print_summary(Console(width=200), run, summary)
    shown = capsys.readouterr().out
    assert "units own     improved  100.0% -> 50.0%   -50.0% [" in shown
    assert "50.0% of the right survive on 2 of 2 problems" in shown
    assert "shuffled own  safe on 0 of 2 problems" in shown


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["typoes"], r"evaluation\.perturbations.*typoes"),
        (["typos", "typos"], "has one twice"),
    ],
)
def test_what_is_no_perturbation_is_told_in_one_line(given, message):
    with pytest.raises(UserError, match=message) as error:
        resolve(merge(read_tree("demo"), {"evaluation": {"perturbations": given}}))
    assert "\n" not in str(error.value)


def test_a_run_from_before_there_were_perturbations_is_not_stale():
    config = resolve(read_tree("demo"))
    assert "evaluation.perturbations" not in config.inputs("answers")
    asked = resolve(merge(read_tree("demo"), {"evaluation": {"perturbations": ["typos"]}}))
    assert [c.effects for c in asked.changes(config.model_dump(mode="json"))] == [{"answers"}]


def test_a_perturbation_is_a_function_of_text_and_chance():
    assert PERTURBATIONS["preamble"]("How many?", random.Random(0)).endswith(". How many?")
