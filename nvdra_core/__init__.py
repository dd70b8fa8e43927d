"""What node and cluster must agree on: API types, gates, errors, logs, metrics, the Kubernetes
client.

Starts nothing and owns no thread at import. Imports neither ``nvdra_node`` nor ``nvdra_cluster``.
"""

__version__ = "0.1.0"
