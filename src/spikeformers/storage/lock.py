"""One process writes a run folder at a time.

    FOLDER/run.lock     JSON: pid, host, boot, began, started, command

The file is locked by the kernel (``flock``) for as long as its process holds the folder, so that
one that was killed holds nothing: the next process takes its file over. Where the file names
another machine this proves nothing (a network file system may keep locks to each machine), and the
folder is refused until the file is removed by hand. Where the file system knows no locks the file
itself is the lock: it is stale if this machine has been restarted since, or if its process is gone
or began at another time, which tells a reused number.
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
    """A process that writes a folder."""

    pid: int
    host: str
    boot: str = ""
    """When the machine was started, as a name; empty where the system does not say."""
    began: str = ""
    """When the process began, in the system's own words."""
    started: str = ""
    """When it took the folder, for people."""
    command: str = ""

    @classmethod
    def here(cls) -> Writer:
        """This process."""
        pid, now = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S %z")
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
        return cls(pid, socket.gethostname(), _boot(), _began(pid), now, command)

    @property
    def elsewhere(self) -> bool:
        """Whether it ran on another machine (of containers on one machine, neither)."""
        same_kernel = bool(self.boot) and self.boot == _boot()
        return not same_kernel and self.host != socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it still runs on this machine; a process of the same number is not it."""
        if self.boot and _boot() and self.boot != _boot():
            return False
        began = _began(self.pid)
        return bool(began) and (not self.began or began == self.began)

    def __str__(self) -> str:
        more = "".join(f", {one}" for one in (self.command, self.started) if one)
        return f"process {self.pid} on {self.host}{more}"


class _Held:
    """Locks of this process: a folder locked once more by the same thread is the same lock."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.files: dict[Path, tuple[int, int]] = {}  # folder -> (file, thread)

    def forget(self) -> None:
        """In a forked child: its copies of the files would hold the locks of a dead parent."""
        self.guard = threading.Lock()
        for file, _ in self.files.values():
            with suppress(OSError):
                os.close(file)
        self.files = {}


_held = _Held()
os.register_at_fork(after_in_child=_held.forget)


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder``, which is made where it is missing, against other processes and threads.

    Raises ``UsageError`` that names who holds it, ``StorageError`` where it cannot be written. A
    folder that was made for this, and is empty at the end, is gone again.
    """
    key, thread = folder.resolve(), threading.get_ident()
    with _held.guard:
        mine = _held.files.get(key)
        if mine is None:
            made = _make(folder)
            try:
                _held.files[key] = (_take(folder), thread)
            except BaseException:
                _unmake(made)
                raise
    if mine is not None:
        if mine[1] != thread:
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
            _unmake(made)


def check_unlocked(folder: Path) -> None:
    """Raise ``UsageError`` where another process holds ``folder``; nothing is made or changed."""
    if folder.is_dir() and (folder / NAME).exists():
        with run_lock(folder):
            pass


def _take(folder: Path) -> int:
    """The locked file of ``folder``, with our name in it."""
    path = folder / NAME
    try:
        while True:
            try:
                file, made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
            except FileExistsError:
                try:
                    file, made = os.open(path, os.O_RDWR), False
                except FileNotFoundError:  # its holder has just removed it
                    continue
            try:
                if _lock(folder, path, file, made=made):
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)
    except OSError as error:
        raise refused(folder, error) from error


def _lock(folder: Path, path: Path, file: int, *, made: bool) -> bool:
    """Lock an open file and write our name into it; False where it is no longer at ``path``."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        by_kernel = True
    except BlockingIOError:
        raise _taken(folder, _writer(file)) from None
    except OSError:  # a file system without locks
        by_kernel = False
    try:
        there, here = os.stat(path), os.fstat(file)
    except FileNotFoundError:
        return False
    if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
        return False  # its last holder removed it between our opening and our locking
    before = _writer(file)
    if before is not None and before.elsewhere:
        raise _taken(folder, before)
    if not by_kernel and not made:
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
    """Remove the file while it is locked, so that nobody finds it stale, and let go of it."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
    os.close(file)


def _taken(folder: Path, writer: Writer | None) -> UsageError:
    path = folder / NAME
    who = "another process" if writer is None else str(writer)
    if writer is not None and writer.elsewhere:
        return UsageError(
            f"{folder} is held by {who}: another machine, of which this one cannot tell whether "
            f"it still writes there. Name another folder; or, if that process has ended, remove "
            f"{path}."
        )
    return UsageError(
        f"{folder} is being written by {who}. Wait for it, stop it, or name another folder. "
        f"({path})"
    )


def _writer(file: int) -> Writer | None:
    """Who the file names; None for one that is empty or no lock of ours."""
    try:
        values: dict[str, Any] = json.loads(os.pread(file, 1 << 16, 0))
        pid, host, *texts = (values[key] for key in Writer.__dataclass_fields__)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return Writer(pid, str(host), *map(str, texts)) if type(pid) is int and pid > 0 else None


def _make(folder: Path) -> list[Path]:
    """Make ``folder``; which folders there were not before, the innermost first."""
    check_folder(folder, "")
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, error) from error
    return missing


def _unmake(made: list[Path]) -> None:
    """Remove the folders that are still empty."""
    with suppress(OSError):
        for folder in made:
            folder.rmdir()


def _boot() -> str:
    """The name that Linux gives to each start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _began(pid: int) -> str:
    """When a process began, in the system's own words; empty where there is none (or a zombie)."""
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
