"""The control plane of a cluster, its credentials, and the client of its API."""
