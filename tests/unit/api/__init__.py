"""Tests of nvdra_core.api."""
