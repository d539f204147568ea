"""`python -m bench`: figures and ratios, each against a peer or hand-written SQL measured in the same run.

One file is one benchmark with `TITLE` and `run(size) -> list[Figure]`. A report, not a test: the exit code is always 0.
"""
