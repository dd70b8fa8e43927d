"""An API server in memory, over HTTP or HTTPS on loopback, for tests and benchmarks.

``server.FakeApiServer`` runs it in a thread, ``python -m tests.fakes.apiserver`` as a process. It has the real one's
store, selectors, pages, watches with bookmarks and 410, authentication, and faults on demand. It validates nothing and
authorizes everything: tests that need a refusal state it (``faults``, ``admission``).
"""
