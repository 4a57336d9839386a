"""Every test runs offline, on one thread, with caches of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Read when torch, transformers or matplotlib are first imported, here and in what tests start.
os.environ.update(
    HF_DATASETS_OFFLINE="1",
    HF_HUB_OFFLINE="1",
    MKL_NUM_THREADS="1",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)
# Without a GPU, Triton's kernels run in its interpreter; read when triton is first imported.
if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd")):
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("spikeformers", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("spikeformers")


def pytest_configure(config: pytest.Config) -> None:
    """Give this process, a worker of pytest-xdist too, empty caches that are gone at its end."""
    folder = Path(tempfile.mkdtemp(prefix="spikeformers-tests-"))
    os.environ["SPIKEFORMERS_CACHE"] = str(folder / "spikeformers")
    os.environ["HF_HOME"] = str(folder / "huggingface")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the seconds that the tests of each room took, if several rooms ran."""
    rooms: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            parts = Path(getattr(report, "nodeid", "").partition("::")[0]).parts
            if len(parts) > 1 and hasattr(report, "duration"):
                room = parts[1] if len(parts) > 2 else "tests/*.py"
                rooms[room] = rooms.get(room, 0.0) + report.duration
    if len(rooms) > 1:
        terminalreporter.section("seconds per room")
        for room, seconds in sorted(rooms.items(), key=lambda item: -item[1]):
            terminalreporter.write_line(f"{seconds:8.1f}  {room}")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Keep torch on one thread, so that parallel workers do not fight for cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of shared data sets, or skip."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SPIKEFORMERS_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no shared data: {folder} is not a folder; set SPIKEFORMERS_DATA to one")
    return folder
