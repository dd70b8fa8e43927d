"""The node's Kubernetes client on ``http.client``, DRA objects in any served version, and the node's credential."""
