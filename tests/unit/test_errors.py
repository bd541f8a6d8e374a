"""What is told of an error that a library raised, in one line."""

import pytest

from lr_ray.errors import counted, named, reason, series

RAY = "The last 20 lines of /logs/dashboard.log:\nTraceback\n\nFrontendNotFoundError: no build\n"
TORCH = "Error(s) in loading state_dict for Linear:\n\tsize mismatch for weight: 3 and 4."


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no room", "no room"),
        ("\n  no room\nfor it\n", "no room"),
        ("no room:", "no room:"),
        (RAY, "The last 20 lines of /logs/dashboard.log: FrontendNotFoundError: no build"),
        (TORCH, "Error(s) in loading state_dict for Linear: size mismatch for weight: 3 and 4."),
    ],
)
def test_a_line_that_only_announces_others_is_told_with_the_last_of_them(text, line):
    assert reason(ValueError(text)) == line
    assert named(ValueError(text)) == f"ValueError: {line}"


def test_an_error_that_says_nothing_is_told_by_its_type():
    assert reason(ValueError(" \n")) == "ValueError"
    assert named(ValueError()) == "ValueError: "


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (0, "answer", "0 answers"),
        (1, "shard", "1 shard"),
        (1, "trajectory", "1 trajectory"),
        (2, "trajectory", "2 trajectories"),
        (3, "batch", "3 batches"),
    ],
)
def test_one_of_a_thing_is_no_plural(number, noun, said):
    assert counted(number, noun) == said


def test_words_are_listed_as_in_a_sentence():
    words = ["labelling", "training", "evaluation"]
    said = [series(words[:count]) for count in range(4)]
    assert said == ["", "labelling", "labelling and training", "labelling, training and evaluation"]
