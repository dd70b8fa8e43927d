"""The cluster half of nvdra: the controller of ComputeDomains. Enter at ``cli``.

    watch --observe--> views --decide (pure)--> writes --carry out--> API

``decide`` imports nothing that acts; ``control`` is the shell around it; ``app`` assembles both.
"""
