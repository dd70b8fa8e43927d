"""A rack of simulated GPU hosts, and the Ansible collection on it: ``python -m tests.rack --help``, ``make rack``."""
