"""Mutated files, read as a chat reads them: `python -m tests.fuzz --n 3000 --seed 1 --out DIR`."""
