"""A grid of variants over seeds through the same pipeline, and one table of what came out.

`grid` reads what is asked, `plan` decides which work is shared, `work` does it, `table` and `plot`
tell it. Exercised by `python jobs/compare.py --config demo --run RUN` and
`pytest tests -k "grid or compar"`.
"""
