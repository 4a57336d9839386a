"""``python -m spikeformers.cli``, and for torchrun: ``torchrun -m spikeformers.cli ...``."""

from spikeformers.cli import main

main()
