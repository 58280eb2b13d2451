"""Random networks through random stacks of passes: python -m benchmarks.random_stacks --help."""
