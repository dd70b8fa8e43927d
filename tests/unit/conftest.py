"""Hypothesis for unit tests: the same examples in every run, few enough for the time budget."""

from hypothesis import settings

settings.register_profile("unit", max_examples=60, derandomize=True, deadline=None, database=None)
settings.load_profile("unit")
