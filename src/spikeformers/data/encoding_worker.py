"""A process that encodes batches: ``python -m spikeformers.data.encoding_worker``."""

from __future__ import annotations

import signal
import sys

from spikeformers.data.encoding import work

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent acts
    work(sys.stdin.buffer, sys.stdout.buffer)
