"""Tests of the chart: templates, values, CRDs, rights."""
