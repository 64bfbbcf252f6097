"""Benchmarks; each runs with ``python -m benchmarks.NAME`` from the root."""
