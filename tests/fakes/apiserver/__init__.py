"""An API server in memory, over real HTTP or HTTPS on loopback: the double of the real one in tests and benchmarks.

``server.FakeApiServer`` runs it in a thread, ``python -m tests.fakes.apiserver`` as a process. It keeps the real one's
semantics for the kinds in ``kinds``: versions, conflicts, preconditions, selectors, paging, watches with bookmarks and
410, apply of claim statuses, ResourceSlice validation, dropped fields of disabled gates and node identity rules. It
can be told to fail in every way a network can. Not kept: CEL, defaulting beyond what drivers see, protobuf, etcd.
"""
