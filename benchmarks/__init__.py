"""Benchmarks of speed and strength, one command each: `python -m benchmarks.steps --help`. advmia imports none."""
