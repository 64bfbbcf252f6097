"""Benchmarks; each is run with ``python -m benchmarks.NAME`` from the repository root."""
