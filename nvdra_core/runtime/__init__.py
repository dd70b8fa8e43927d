"""What every process needs to run: clock, logs, metrics, threads, systemd, service life cycle. Knows no Kubernetes."""
