"""Tests of nvdra_core (without its Kubernetes client)."""
