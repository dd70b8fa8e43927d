"""Tests of ``nvdra_cluster.decide``."""
