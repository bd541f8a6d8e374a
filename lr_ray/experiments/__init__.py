"""A grid of variants over seeds through the same pipeline, and one table of what came out.

`grid` reads what is asked, `plan` decides which work is shared, `checks` finds what is wrong, `work` does
it, `asking` asks the models, `table` and `plot` tell it, `compare` puts them together. `against` holds a
finished run against the figures of the paper, which `paper` reads. Exercised by
`lr-ray compare --config demo --run RUN` and `pytest tests -k "compar or paper"`.
"""
