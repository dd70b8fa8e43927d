"""The composition root: builds and runs the services. Called by ``cli``.

``plugin`` is what every DRA driver needs; ``gpu``, ``computedomain``, ``imex`` and ``broker`` are one service each.
Modules below it get their dependencies passed in.
"""
