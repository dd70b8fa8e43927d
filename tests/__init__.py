"""Tests and the means to run them: simulated hardware, a real Kubernetes, real hosts."""
