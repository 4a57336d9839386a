"""Products of counts under the sanitizers, on AVX-512 and NEON with their instructions emulated.

What no processor here can run is at least compiled, and its logic held to sums taken one weight at
a time. `spikeformers.kernels.choose` runs the real instructions where there are any.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "src" / "spikeformers" / "kernels" / "cpp"
PATHS = {
    "portable": ["-DCHECK_PORTABLE"],
    "AVX2": ["-DCHECK_AVX2", "-mavx2"],
    "AVX-512 with VNNI": ["-DEMULATE_AVX512", "-mavx2"],
    "NEON": ["-DEMULATE_NEON"],
    "NEON with its dot product": ["-DEMULATE_NEON", "-D__ARM_FEATURE_DOTPROD"],
}


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_products_of_counts(path: str, tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None or platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("needs g++ on x86-64")
    program = tmp_path / "check"
    flags = ["-std=c++20", "-O1", "-ffp-contract=off", f"-I{SOURCES}", *PATHS[path]]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [compiler, *flags, str(HERE / "check_counts.cpp"), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" outputs compared, 0 wrong\n")
