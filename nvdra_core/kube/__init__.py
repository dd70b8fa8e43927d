"""The Kubernetes API for the node: ``client.Client`` with ``config.KubeConfig``, ``watch``, and ``fake`` for tests.

Plain JSON objects, threads, no dependency. Starts nothing at import. ``resources`` names the kinds, ``dra`` hides which
version of resource.k8s.io the cluster serves. Measured: importing the client costs 5 MB, 4.4 of them ssl; http.client
would add 2 MB and four times the time per request.
"""
