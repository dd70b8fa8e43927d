"""Tests of ``nvdra_cluster.control``, app and cli."""
