"""Test beds: what tests and benchmarks start to run the shipped code on."""
