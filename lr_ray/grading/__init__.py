r"""Reading an answer off a completion, and judging it. Imports nothing of the package but errors and YAML.

`reading` says what of a completion counts, with `boxed`, `statements`, `formulas` and `choices`; `judging`
whether it is the expected answer, with `characters` and `latex` (one way of writing), `numerals`,
`comparison`, `intervals` and `algebra` (the one that imports sympy); `pool` does both in processes with
limits; `graders` has a grader's protocol and names, `others` those of other people, `gym` those of
reasoning-gym. Tables of words and commands hold kinds, not examples: tests/unit/grading/kinds.py has for
each kind of answer the cases that its rules are there for. `python -m lr_ray.grading FILE.jsonl` grades
rows for a reader.
"""
