"""Makes the controller's container image: ``python packaging/image.py`` (or ``make image``).

Enter at ``cli``. What goes in: Debian packages by apt, the wheels that ``packaging/requirements-controller.txt``
pins, and this checkout. What comes out: one OCI archive for both architectures, with no shell and no package manager
in it, the same bit for bit for the same commit, packages and wheels. Needs no root and no container engine.
"""
