r"""Reading an answer off a completion, and judging it. Imports nothing of the package but errors.

`reading` says what of a completion counts, with `boxed`, `statements`, `formulas` and `choices`; `judging`
whether it is the expected answer, with `latex`, `numerals`, `intervals`, `comparison` and `algebra` (the one
that imports sympy); `pool` does both in processes with limits; `graders` has a grader's protocol and names,
`others` those of other people. `python -m lr_ray.grading FILE.jsonl` grades rows for a reader.
"""
