"""Benchmarks: any DRA plugin command beside any other on simulated GPUs, and GPU pods beside plain ones.

Enter at `python -m tests.bench --help`. Figures are information; only `--check` turns a missed goal into an exit status of 1.
"""
