"""What we claim about speed, one command each: `python -m benchmarks.steps --help`. Nothing in advmia imports this."""
