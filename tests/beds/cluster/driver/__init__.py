"""The shipped services on the nodes of a real cluster, with simulated GPUs and trays."""
