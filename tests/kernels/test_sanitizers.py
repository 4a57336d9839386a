"""The kernels' and the file's tests once more, in a build that watches each access and overflow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys
sys.meta_path = [f for f in sys.meta_path if "Redirect" not in type(f).__name__]
sys.path.insert(0, {site!r})
import spikeformers.kernels._native as native
assert native.__file__.startswith({site!r}), native.__file__
import pytest
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *{tests!r}]))
"""


@pytest.mark.slow
def test_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    nanobind = pytest.importorskip("nanobind")
    compiler, cmake = shutil.which("g++"), shutil.which("cmake")
    if compiler is None or cmake is None:
        pytest.skip("the sanitizers need g++ and cmake")
    # The C++ library has to be there before the sanitizer looks for what throws exceptions.
    preload = [
        subprocess.run(
            [compiler, f"-print-file-name={library}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for library in ("libasan.so", "libstdc++.so")
    ]
    build, site = tmp_path / "build", tmp_path / "site"
    configure = [cmake, "-S", str(ROOT), "-B", str(build), "-DSPIKEFORMERS_SANITIZE=ON"]
    configure += ["-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"]
    configure += [f"-DCMAKE_CXX_COMPILER={compiler}", f"-Dnanobind_DIR={nanobind.cmake_dir()}"]
    for command in (configure, [cmake, "--build", str(build), "-j", "2"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    shutil.copytree(ROOT / "src" / "spikeformers", site / "spikeformers")
    for module in build.glob("_native*.so"):
        shutil.copy(module, site / "spikeformers" / "kernels")
    tests = ["tests/kernels/test_kernels.py", "tests/kernels/test_architectures.py"]
    tests += ["tests/engine/test_file.py"]
    tests += ["tests/engine/test_runtime.py::test_spikes_and_logits_are_pytorchs"]
    tests += ["tests/engine/test_runtime.py::test_threads_of_python_take_turns"]
    tests += ["tests/engine/test_bispikclm.py::test_spikes_edges_and_logits_are_pytorchs"]
    tests += ["tests/engine/test_converted.py::test_what_neurons_say_and_logits_are_pytorchs"]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter keeps what it likes until its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(site=str(site), tests=tests)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
