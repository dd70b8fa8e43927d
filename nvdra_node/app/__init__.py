"""Builds and runs the services: ``plugin`` is what every DRA driver needs, ``gpu`` the service for gpu.nvidia.com.

Called by ``cli``; the composition root. Nothing below it builds its own surroundings.
"""
