"""`python -m spikeformers`, and `torchrun --nproc_per_node 2 -m spikeformers`."""

import sys

from spikeformers.cli import main

if __name__ == "__main__":
    sys.exit(main())
