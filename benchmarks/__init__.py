"""Measurements of flatcal against other programs that do the same; run ``python -m benchmarks``.

The process that you start stays small: it imports neither numpy nor flatcal. Everything that is
timed, built or compared happens in a process of its own (`benchmarks.worker`), because Linux
hands the peak memory of a parent on to its children, and theirs is reported.
"""
