"""The kubelet plugin measured beside others: start, prepare, memory, CPU, requests."""
