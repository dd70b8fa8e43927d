"""A real Kubernetes of 1 to 18 nodes on this one machine, for tests and demonstrations.

Enter at `api.Cluster` from Python and at `python -m tests.beds.cluster --help` from a shell. Needs root, Linux network
namespaces and cgroup v1; `capability.why_not()` says what is missing. Imports nothing of the product.
"""
