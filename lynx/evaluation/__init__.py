"""How well answers match: metrics and benchmarks."""
