"""The controller's view of the cluster: cached objects, indexes, and what follows from them over time."""
