"""A simulated NVIDIA driver: library, device nodes, /proc and /sys, for machines without a GPU.

Enter at `api.SimRoot`. The library is C (`nvml/`), what it says is data (`profiles/`), and `README.md` here tells how
the parts fit. Nothing that ships imports this package.
"""
