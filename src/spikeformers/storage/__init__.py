"""Files and folders: checks that they can be written, locks, atomic writes and digests."""

from __future__ import annotations

from spikeformers.storage.digest import digest_of, file_digest, new_digest, row_digest
from spikeformers.storage.files import LEFT_OVER, replacing, write_bytes, write_text
from spikeformers.storage.lock import check_unlocked, run_lock
from spikeformers.storage.publish import draft_of, publishing
from spikeformers.storage.writable import check_file, check_folder

__all__ = [
    "LEFT_OVER",
    "check_file",
    "check_folder",
    "check_unlocked",
    "digest_of",
    "draft_of",
    "file_digest",
    "new_digest",
    "publishing",
    "replacing",
    "row_digest",
    "run_lock",
    "write_bytes",
    "write_text",
]
