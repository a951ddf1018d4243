"""Histories: concurrent producers and readers against a server that is killed, judged afterwards by a checker.

`checker` is pure and judges a history; `workload` makes one; `python -m tests.histories` runs many seeds.
"""
