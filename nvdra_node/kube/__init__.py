"""The Kubernetes API as only the node uses it: DRA objects, the node's credential, and what it may do."""
