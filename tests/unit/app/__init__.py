"""Tests of nvdra_node.app."""
