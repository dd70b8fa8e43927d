"""A simulated `nvidia-imex` and `nvidia-imex-ctl`: the real ones' options, configuration, states, signals and files.

Standard library only: `install.install` packs the modules into two programs that run wherever python3 is. What is
simulated, and from which facts, stands in `README.md`.
"""
