"""Shipped services in processes or threads of their own, on the simulated driver and a fake or bare API server."""
