"""One process writes a run folder; a killed one holds nothing; another machine is asked about."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spikeformers.errors import UsageError
from spikeformers.storage import check_unlocked, lock, run_lock
from spikeformers.storage.lock import Writer

HOLD = """import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it

import sys, time
from pathlib import Path
from spikeformers.storage import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds ``folder``."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no locks."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def leave(folder: Path, **changes: Any) -> Path:
    """The lock of a process that ended without letting go."""
    folder.mkdir(exist_ok=True)
    here = Writer.here()
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    values = {"pid": int(ended.stdout), "host": here.host, "boot": here.boot, "began": "12345"}
    values |= {"started": "2026-01-02 03:04:05 +0000", "command": "spikeformers pretrain"}
    (folder / "run.lock").write_text(json.dumps(values | changes))
    return folder


def test_another_process_is_refused_with_the_name_of_the_holder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with another_process(folder) as process:
        with pytest.raises(UsageError) as raised, run_lock(folder):
            pass
        message = str(raised.value)
        assert (
            f"{folder} is being written by process {process.pid} on {os.uname().nodename}"
            in message
        )
        assert f"({folder}/run.lock)" in message
        assert json.loads((folder / "run.lock").read_text())["pid"] == process.pid
        with pytest.raises(UsageError, match=f"process {process.pid} on "):
            check_unlocked(folder)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_ends_in_any_way_lets_go(end: signal.Signals, tmp_path: Path) -> None:
    with another_process(tmp_path) as process:
        process.send_signal(end)
        process.wait()
        assert (tmp_path / "run.lock").exists() == (end == signal.SIGKILL)
        with run_lock(tmp_path):
            assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_an_exception_lets_go_and_a_folder_made_for_the_lock_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with run_lock(tmp_path / "a"):
        (tmp_path / "a" / "model").write_text("x")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["model"]


def test_the_same_thread_may_lock_again_and_another_may_not(tmp_path: Path) -> None:
    messages: list[str] = []

    def other() -> None:
        try:
            with run_lock(tmp_path):
                messages.append("held twice")
        except UsageError as error:
            messages.append(str(error))

    with run_lock(tmp_path), run_lock(tmp_path / "." / "../" / tmp_path.name):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"is being written by process {os.getpid()} on" in messages[0]
    with run_lock(tmp_path):
        pass


def test_a_forked_child_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    code = HOLD.replace(
        'print("held", flush=True)',
        'import os\n    child = os.fork()\n    None if child else print("held", flush=True)',
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as p:
        assert p.stdout is not None
        p.stdout.readline()
        p.kill()
        p.wait()
        with run_lock(tmp_path):  # the child still runs
            pass
        os.killpg(p.pid, signal.SIGKILL)


def test_another_machine_is_refused_until_its_lock_is_removed(tmp_path: Path) -> None:
    folder = leave(tmp_path / "run", host="elsewhere", boot="another")
    with pytest.raises(UsageError) as raised, run_lock(folder):
        pass
    message = str(raised.value)
    assert "on elsewhere, spikeformers pretrain, 2026-01-02 03:04:05" in message
    assert f"if that process has ended, remove {folder}/run.lock" in message
    (folder / "run.lock").unlink()
    with run_lock(folder):
        pass


def test_a_container_of_this_machine_is_not_another_machine(tmp_path: Path) -> None:
    if not Writer.here().boot:
        pytest.skip("the system does not name its start")
    with run_lock(leave(tmp_path / "run", host="container")):
        pass


def test_without_locks_the_file_itself_is_the_lock(tmp_path: Path, no_locks: None) -> None:
    with run_lock(tmp_path), pytest.raises(UsageError, match=f"written by process {os.getpid()}"):
        lock._take(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run.lock").write_text("")  # being written just now
    with pytest.raises(UsageError, match="by another process"), run_lock(tmp_path):
        pass


def test_without_locks_a_process_that_is_gone_holds_nothing(tmp_path: Path, no_locks: None) -> None:
    with run_lock(leave(tmp_path / "run")):
        assert json.loads((tmp_path / "run" / "run.lock").read_text())["pid"] == os.getpid()


def test_without_locks_a_reused_number_is_not_the_same_process(
    tmp_path: Path, no_locks: None
) -> None:
    here = Writer.here()
    leave(tmp_path / "run", pid=os.getpid(), began=here.began)
    with pytest.raises(UsageError, match="is being written by"), run_lock(tmp_path / "run"):
        pass
    with run_lock(leave(tmp_path / "run", pid=os.getpid(), began="1")):
        pass


def test_without_locks_a_restart_ends_every_process(tmp_path: Path, no_locks: None) -> None:
    here = Writer.here()
    if not here.boot:
        pytest.skip("the system does not name its start")
    folder = leave(tmp_path / "run", pid=os.getpid(), began=here.began, boot="the start before")
    with run_lock(folder):
        pass


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b'{"pid": "many"}', b"{"])
def test_a_lock_with_foreign_content_that_nobody_holds_is_taken_over(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "run.lock").write_bytes(content)
    with run_lock(tmp_path):
        pass
