"""The Kubernetes API for the cluster half, on the official ``kubernetes`` client."""
