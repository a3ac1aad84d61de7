"""Benchmarks of speed and strength, one command each, e.g. `python -m benchmarks.steps --help`.

`advmia` does not import them.
"""
