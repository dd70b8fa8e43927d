"""Makes the deb and rpm packages of the node: ``python packaging/build.py`` (or ``make packages``).

Enter at ``cli``. What goes in: this checkout, the wheels that ``packaging/requirements-node.txt`` pins, the units of
``systemd/``. What comes out: four packages below ``out/``, the same bit for bit for the same commit and interpreters.
May import the packages it ships and ``tests.beds.cluster.artifacts.build``, which builds Go programs into the cache.
"""
