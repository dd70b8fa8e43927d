"""The shipped service on a real Kubernetes with simulated GPUs: pods, faults, restarts. Enter at ``bed``."""
