"""A node or a controller in this process: shipped code on a fake host and a fake API."""
