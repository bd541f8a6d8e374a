"""Interchange with the sample files of the published LightReasoner code, in both directions.

docs/sample-files.md has their form. `form` reads one line, `grouping` makes supervision rows of a
problem's lines, `reading` and `writing` are the two jobs:

    lr-ray import --config NAME --run RUN --samples FILE [FILE ...]
    lr-ray export --run RUN --out FILE
"""
