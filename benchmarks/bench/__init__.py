"""Benchmarks of pgq against the raw driver and against bare tables. Run them with benchmarks/run.py."""
