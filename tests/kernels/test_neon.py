"""The aarch64 paths, cross-compiled and run under qemu: their products are exact there too."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "src" / "spikeformers" / "kernels" / "cpp"


COUNTS = [HERE / "check_counts.cpp"]
PRODUCTS = [HERE / "check_products.cpp", SOURCES / "path_neon.cpp", SOURCES / "path_portable.cpp"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "flags"),
    [(PRODUCTS, []), (COUNTS, []), (COUNTS, ["-march=armv8.2-a+dotprod"])],
    ids=["products", "counts", "counts-dot-product"],
)
def test_products_on_aarch64(files: list[Path], flags: list[str], tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if compiler is None or emulator is None:
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64-static")
    program = tmp_path / "check"
    common = ["-std=c++20", "-O3", "-ffp-contract=off", "-static", f"-I{SOURCES}", "-o", program]
    subprocess.run([compiler, *common, *flags, *files], check=True)
    done = subprocess.run([emulator, program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith(" 0 wrong\n")
