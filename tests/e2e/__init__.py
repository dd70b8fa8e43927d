"""The shipped service on a real Kubernetes with simulated GPUs: pods, faults, restarts. Fixtures: ``conftest``."""
