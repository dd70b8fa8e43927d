"""ComputeDomains on a real cluster: the chart's controller, the shipped services on each node, and a bench of both.

Enter at ``bed.DomainBed`` from tests and at ``python -m tests.domain`` (``make domain``) from a shell. Only the driver,
nvidia-imex and systemd are simulated (``tests.sim``).
"""
