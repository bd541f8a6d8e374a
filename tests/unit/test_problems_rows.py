"""Every kind of bad row is rejected with its file, its row and what would be right."""

import json

import pytest

from lr_ray.problems.rows import MAX_CHARACTERS, MAX_ID_CHARACTERS, PROBLEM
from tests.unit.problem_sources import count, jsonl, rejections, stage

FIELDS = {"id": "id"}
GOOD = {"id": "good", "problem": "1 + 1?", "answer": "2"}
ID = "must be a string or a whole number"
ANSWER = "must be a string, a number or null"
A_LINE = "must be one object a line"
EATEN = r"as LaTeX has whose backslash is not escaped; must be written as \\boxed in JSON"
LONG = "x" * (MAX_CHARACTERS + 1)

BAD = {
    "no JSON": (b"{'id': 1}", None, f"not JSON at character 2: Expecting property name enclosed in double quotes; {A_LINE}"),
    "cut line": (b'{"id": 1, "problem": "a', None, f"not JSON at character 22: Unterminated string starting at; {A_LINE}"),
    "NaN": (b'{"id": 1, "problem": "a", "answer": NaN}', None, f"not JSON: NaN is not a JSON number; {A_LINE}"),
    "nested deeply": (b"[" * 100_000, None, f"not JSON: nested too deeply; {A_LINE}"),
    "array": (["a"], None, "the row is a list; must be a JSON object"),
    "number": ("3", None, "the row is a number; must be a JSON object"),
    "null row": ("null", None, "the row is null; must be a JSON object"),
    "bad UTF-8": (b'{"id": 1, "problem": "\xff\xfe"}', None, "not UTF-8 at byte 23 of the line; must be UTF-8"),
    "no problem": ({"id": "i", "question": "a"}, "i", "no field 'problem'; there are 'id', 'question'; set data.fields.problem to the right one"),
    "null problem": ({"id": "i", "problem": None}, "i", "problem is null; must be a string"),
    "numeric problem": ({"id": "i", "problem": 7}, "i", "problem is a number; must be a string"),
    "list problem": ({"id": "i", "problem": ["a"]}, "i", "problem is a list; must be a string"),
    "empty problem": ({"id": "i", "problem": ""}, "i", "problem is empty; must have text"),
    "problem without width": ({"id": "i", "problem": "\u200b \ufeff"}, "i", "problem is empty; must have text"),
    "key twice": (b'{"id": "i", "problem": "a", "problem": "b"}', None, "'problem' is there twice; must be there once"),
    "key twice below": (b'{"id": "i", "problem": "a", "meta": [{"k": 1, "k": 1}]}', None, "'k' is there twice; must be there once"),
    "white problem": ({"id": "i", "problem": " \n\t "}, "i", "problem is empty; must have text"),
    "NUL": ({"id": "i", "problem": "a\0b"}, "i", "problem has a NUL at character 2; must be plain text"),
    "eaten \\boxed": (rb'{"id": "i", "problem": "in \boxed{}"}', "i", rf"problem has '\x08' at character 4, {EATEN}"),
    "eaten \\frac": (rb'{"id": "i", "problem": "a", "answer": "\frac{1}{2}"}', "i", rf"answer has '\x0c' at character 1, {EATEN}"),
    "eaten \\times": (rb'{"id": "i", "problem": "2 \times 3"}', "i", rf"problem has '\t' at character 3, {EATEN}"),
    "surrogate": (b'{"id": "i", "problem": "ab\\ud800"}', "i", "problem has half a surrogate pair at character 3; must be Unicode text"),
    "over-long": ({"id": "i", "problem": LONG}, "i", f"problem has {len(LONG)} characters; must have at most {MAX_CHARACTERS}"),
    "no id": ({"problem": "a"}, None, "no field 'id'; there are 'problem'; set data.fields.id to the right one"),
    "null id": ({"id": None, "problem": "a"}, None, f"id is null; {ID}"),
    "float id": ({"id": 1.5, "problem": "a"}, None, f"id is a number; {ID}"),
    "boolean id": ({"id": True, "problem": "a"}, None, f"id is a boolean; {ID}"),
    "empty id": ({"id": " ", "problem": "a"}, None, f"id is empty; {ID}"),
    "over-long id": ({"id": LONG[: MAX_ID_CHARACTERS + 1], "problem": "a"}, None, f"id has {MAX_ID_CHARACTERS + 1} characters; must have at most {MAX_ID_CHARACTERS}"),
    "list answer": ({"id": "i", "problem": "a", "answer": [1]}, "i", f"answer is a list; {ANSWER}"),
    "object answer": ({"id": "i", "problem": "a", "answer": {}}, "i", f"answer is an object; {ANSWER}"),
    "boolean answer": ({"id": "i", "problem": "a", "answer": True}, "i", f"answer is a boolean; {ANSWER}"),
    "NUL in answer": ({"id": "i", "problem": "a", "answer": "\0"}, "i", "answer has a NUL at character 1; must be plain text"),
    "infinite answer": (b'{"id": "i", "problem": "a", "answer": 1e999}', "i", "answer is inf; must be a finite number, a string or null"),
    "duplicate": ({"id": "good", "problem": "2 + 2?"}, "good", "duplicate of row 1: the same id or text; must occur once"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_row_is_rejected_with_file_row_and_reason(tmp_path, name):
    line, problem_id, reason = BAD[name]
    path = jsonl(tmp_path / "rows.jsonl", [GOOD, "", line, {**GOOD, "id": 5}])
    run = stage(tmp_path, path, fields=FIELDS)
    assert count(run) == (2, 1)
    expected = {"problem_id": problem_id, "file": path, "row": 3, "reason": reason}
    assert rejections(run) == [expected]


def test_twenty_bad_rows_of_ten_kinds_leave_the_other_480(tmp_path):
    kinds = ["no JSON", "array", "bad UTF-8", "no problem", "null problem", "numeric problem"]
    kinds += ["white problem", "null id", "list answer", "over-long"]
    rows = [{"id": i, "problem": f"{i} + 1?", "answer": i + 1} for i in range(1, 501)]
    places = list(range(7, 500, 25))  # 20 of them
    for place, kind in zip(places, kinds * 2, strict=True):
        rows[place - 1] = BAD[kind][0]
    run = stage(tmp_path, jsonl(tmp_path / "rows.jsonl", rows), fields=FIELDS)
    assert count(run) == (480, 20)
    assert [(bad["row"], bad["reason"]) for bad in rejections(run)] == [
        (place, BAD[kind][2]) for place, kind in zip(places, kinds * 2, strict=True)
    ]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, None), ("", None), ("  \t", None), ("\u200b\ufeff\u00a0\u3000", None), ("0", "0"),
        (" 1/2 ", " 1/2 "), (12, "12"), (-0.5, "-0.5"), (145.0, "145"),
        (1e16, "1" + "0" * 16), (-0.0, "0"), (1e-7, "0.0000001"), (0.1, "0.1"), (120.0, "120"),
        (10**40, str(10**40)),
    ],
)  # fmt: skip
def test_answers_become_text(tmp_path, answer, expected):
    row = json.dumps({"problem": "a", "answer": answer})
    run = stage(tmp_path, jsonl(tmp_path / "rows.jsonl", [row]))
    assert run.read_tables(run.shards("problems"), PROBLEM)["answer"].to_pylist() == [expected]


def test_an_answer_that_is_not_asked_for_cannot_reject_a_row(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [{"problem": "a", "answer": [1, 2]}])
    run = stage(tmp_path, path, fields={"answer": None})
    assert count(run) == (1, 0)


def test_only_the_first_dozen_fields_are_listed(tmp_path):
    row = {f"field_{i:02d}": i for i in range(40)}
    path = jsonl(tmp_path / "rows.jsonl", [row, {"problem": "a"}])
    [bad] = rejections(stage(tmp_path, path))
    assert "'field_11' and 28 more; set" in bad["reason"]
