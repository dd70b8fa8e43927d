"""What both halves share of the Kubernetes API: kinds, calls, retries and the Reflector, on any HTTP client.

The transports are ``nvdra_node.kube.client`` and ``nvdra_cluster.kube``; see docs/decisions/0004-kubernetes-clients.md.
"""
