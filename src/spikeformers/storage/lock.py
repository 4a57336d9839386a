"""One process writes a run folder at a time.

    FOLDER/run.lock     JSON: pid, host, boot, began, started, command

The kernel locks the file (``flock``) for as long as its process holds the folder. A process that
was killed therefore holds nothing, and the next one takes over its file. Where the file names
another machine, a free lock proves nothing (a network file system may keep locks per machine), and
the folder is refused until the file is removed by hand. On a file system without locks the file
itself is the lock: it is stale if this machine has been restarted since, if its process is gone, or
if the process of that number began at another time, so that the number has been reused.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spikeformers.errors import UsageError
from spikeformers.storage.writable import check_folder, refused

logger = logging.getLogger(__name__)

NAME = "run.lock"


@dataclass(frozen=True)
class Writer:
    """A process that writes to a folder."""

    pid: int
    host: str
    boot: str = ""
    """The identifier of the machine's last start; empty if the system has none."""
    began: str = ""
    """When the process began, in the system's own format."""
    started: str = ""
    """When it took the folder, as a date and time for people."""
    command: str = ""

    @classmethod
    def here(cls) -> Writer:
        """This process."""
        pid, now = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S %z")
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
        return cls(pid, socket.gethostname(), _boot(), _began(pid), now, command)

    @property
    def elsewhere(self) -> bool:
        """Whether it ran on another machine; containers on one machine count as the same."""
        same_kernel = bool(self.boot) and self.boot == _boot()
        return not same_kernel and self.host != socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it still runs on this machine; another process with its number does not count."""
        if self.boot and _boot() and self.boot != _boot():
            return False
        began = _began(self.pid)
        return bool(began) and (not self.began or began == self.began)

    def __str__(self) -> str:
        details = "".join(f", {detail}" for detail in (self.command, self.started) if detail)
        return f"process {self.pid} on {self.host}{details}"


class _Held:
    """Locks of this process; the thread that holds a folder may lock it again."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.files: dict[Path, tuple[int, int]] = {}  # folder -> (file, thread)

    def forget(self) -> None:
        """Close the files in a forked child, where they would keep the locks of a dead parent."""
        self.guard = threading.Lock()
        for file, _ in self.files.values():
            with suppress(OSError):
                os.close(file)
        self.files = {}


_held = _Held()
os.register_at_fork(after_in_child=_held.forget)


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against other processes and threads; creates the folder if it is missing.

    Raises ``UsageError`` that names the process that holds it, ``StorageError`` if it cannot be
    written. A folder that was created for this and is still empty at the end is removed.
    """
    key, thread = folder.resolve(), threading.get_ident()
    with _held.guard:
        own = _held.files.get(key)
        if own is None:
            created = _make(folder)
            try:
                _held.files[key] = (_take(folder), thread)
            except BaseException:
                _unmake(created)
                raise
    if own is not None:
        if own[1] != thread:
            raise _taken(folder, Writer.here())
        yield
        return
    try:
        yield
    finally:
        with _held.guard:
            held = _held.files.pop(key, None)
        if held is not None:  # None in a forked child
            _release(folder / NAME, held[0])
            _unmake(created)


def check_unlocked(folder: Path) -> None:
    """Raise ``UsageError`` if another process holds ``folder``; creates and changes nothing."""
    if folder.is_dir() and (folder / NAME).exists():
        with run_lock(folder):
            pass


def _take(folder: Path) -> int:
    """The locked file of ``folder``, which names this process."""
    path = folder / NAME
    try:
        while True:
            try:
                file, created = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
            except FileExistsError:
                try:
                    file, created = os.open(path, os.O_RDWR), False
                except FileNotFoundError:  # its holder has just removed it
                    continue
            try:
                if _lock(folder, path, file, created=created):
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)
    except OSError as error:
        raise refused(folder, error) from error


def _lock(folder: Path, path: Path, file: int, *, created: bool) -> bool:
    """Lock an open file and write this process into it; False if it is no longer at ``path``."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        by_kernel = True
    except BlockingIOError:
        raise _taken(folder, _writer(file)) from None
    except OSError:  # a file system without locks
        by_kernel = False
    try:
        at_path, opened = os.stat(path), os.fstat(file)
    except FileNotFoundError:
        return False
    if (at_path.st_dev, at_path.st_ino) != (opened.st_dev, opened.st_ino):
        return False  # its last holder removed it between our opening and our locking
    before = _writer(file)
    if before is not None and before.elsewhere:
        raise _taken(folder, before)
    if not by_kernel and not created:
        if before is None or before.alive:
            raise _taken(folder, before)
        path.unlink()
        return False
    if before is not None:
        logger.info("%s was held by %s, which has ended; its lock is taken over", folder, before)
    os.ftruncate(file, 0)
    os.pwrite(file, (json.dumps(asdict(Writer.here()), indent=2) + "\n").encode(), 0)
    return True


def _release(path: Path, file: int) -> None:
    """Remove the file while it is still locked, so that nobody finds it stale; then close it."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
    os.close(file)


def _taken(folder: Path, writer: Writer | None) -> UsageError:
    path = folder / NAME
    who = "another process" if writer is None else str(writer)
    if writer is not None and writer.elsewhere:
        return UsageError(
            f"{folder} is held by {who}. That is another machine, and this one cannot tell whether "
            f"the process still writes there. Name another folder; or, if that process has ended, "
            f"remove {path}."
        )
    return UsageError(
        f"{folder} is being written by {who}. Wait for it, stop it, or name another folder. "
        f"({path})"
    )


def _writer(file: int) -> Writer | None:
    """The process that the file names; None if the file is empty or is not a lock of ours."""
    try:
        values: dict[str, Any] = json.loads(os.pread(file, 1 << 16, 0))
        pid, host, *texts = (values[key] for key in Writer.__dataclass_fields__)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return Writer(pid, str(host), *map(str, texts)) if type(pid) is int and pid > 0 else None


def _make(folder: Path) -> list[Path]:
    """Create ``folder``; returns the folders that did not exist before, the innermost first."""
    check_folder(folder, "")
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, error) from error
    return missing


def _unmake(created: list[Path]) -> None:
    """Remove the folders that are still empty."""
    with suppress(OSError):
        for folder in created:
            folder.rmdir()


def _boot() -> str:
    """The identifier that Linux gives to each start of the machine; empty on other systems."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _began(pid: int) -> str:
    """When a process began, in the system's own format; empty if it has ended or is a zombie."""
    try:
        # The name of the program, in parentheses, may hold spaces: state is the first field after.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    listed = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip()
