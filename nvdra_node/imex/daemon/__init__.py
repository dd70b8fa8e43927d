"""Everything outside this process that the supervisor uses: the unit, nvidia-imex-ctl, and files."""
