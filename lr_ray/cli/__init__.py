"""The command line: `lr-ray COMMAND ...`, and `python -m lr_ray` the same.

`front` runs a command and turns what it raises into an exit code, `options` reads the command line of
those that take a config, and each command is a module of its own name.
"""
