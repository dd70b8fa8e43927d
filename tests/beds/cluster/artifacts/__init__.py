"""Builds and finds what a cluster runs: Kubernetes, container images, the host image."""
