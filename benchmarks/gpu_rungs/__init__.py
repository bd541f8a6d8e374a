"""The rungs of `benchmarks/gpu.py`, a module each, and what they share: records, machine, pairs, engines."""
