"""Driver ``gpu.nvidia.com``: discover -> model -> slices, claim -> plan -> effects. Enter at ``driver``."""
