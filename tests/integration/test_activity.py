"""What the stage says while its engines start and work."""

import re


def test_starting_engines_are_shown_until_they_work(sampled):
    notes = [note for note, _ in sampled.activity]
    assert any(re.match(r"loading expert \(\d+ MB\), .*\d+ s$", note) for note in notes)
    assert len(notes) > 3
    assert all(left is None for note, left in sampled.activity if "loading expert" in note)
