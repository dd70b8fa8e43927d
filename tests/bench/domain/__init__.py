"""ComputeDomains measured: a job over many nodes with a domain and without, and a domain over many agents.

Enter at ``python -m tests.bench.domain`` (``make domain``) and ``python -m tests.bench.domain.formation``.
"""
