"""Test beds: what tests and benchmarks start to run the shipped code on, from the smallest to the largest.

- ``memory``: a node or a controller in this process, on a fake host and a fake API
- ``services``: shipped services as processes or threads, on the simulated driver and a fake or bare API server
- ``cluster``: a real Kubernetes; ``cluster.driver`` has the services on its nodes
- ``host``: a host with a systemd of its own
- ``rack``: several hosts of a cluster, and Ansible on them
"""
