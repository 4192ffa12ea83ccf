"""Arithmetic on plain arrays: numpy and numba only, no threads, no files, no units."""
