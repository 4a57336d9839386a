"""`python -m spikeformers`, and `torchrun --nproc_per_node 2 -m spikeformers`."""

from spikeformers.cli import main

if __name__ == "__main__":
    main()
