"""The kernels', the file's and the threads' tests once more, in builds that watch them.

Of each access and overflow (addresses, undefined behaviour), and of each pair of accesses that no
lock orders (threads).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNELS = ("kernels", "architectures", "contracts", "token_counts", "grouped")
SOURCES = ROOT / "src" / "spikeformers" / "kernels" / "cpp"
RUN = """
import sys
sys.meta_path = [f for f in sys.meta_path if "Redirect" not in type(f).__name__]
sys.path.insert(0, {site!r})
import spikeformers.kernels._native as native
assert native.__file__.startswith({site!r}), native.__file__
import pytest
given = ["-q", "-x", "-m", "", "-p", "no:cacheprovider", "-p", "no:xdist"]
sys.exit(pytest.main([*given, *{tests!r}]))
"""


def run(command: list[str], **more: str) -> None:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | more, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]


def tool(name: str) -> str:
    """Where a program lies; skips the test where there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"the sanitizers need {name}")
    return path


def watched(kind: str, library: str, tests: list[str], folder: Path, **options: str) -> None:
    """Build the kernels with these sanitizers, and run the tests with that build."""
    nanobind = pytest.importorskip("nanobind")
    compiler, cmake = tool("g++"), tool("cmake")
    # The C++ library has to be there before the sanitizer looks for what throws exceptions.
    preload = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in (library, "libstdc++.so")
    ]
    build, site = folder / "build", folder / "site"
    configure = [cmake, "-S", str(ROOT), "-B", str(build), f"-DSPIKEFORMERS_SANITIZE={kind}"]
    configure += ["-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"]
    configure += [f"-DCMAKE_CXX_COMPILER={compiler}", f"-Dnanobind_DIR={nanobind.cmake_dir()}"]
    run(configure)
    run([cmake, "--build", str(build), "-j", "2"])
    shutil.copytree(ROOT / "src" / "spikeformers", site / "spikeformers")
    for module in build.glob("_native*.so"):
        shutil.copy(module, site / "spikeformers" / "kernels")
    command = [sys.executable, "-c", RUN.format(site=str(site), tests=tests)]
    run(command, LD_PRELOAD=" ".join(preload), **options)


@pytest.mark.slow
def test_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    tests = [f"tests/kernels/test_{name}.py" for name in KERNELS]
    tests += [
        f"tests/engine/test_{name}.py"
        for name in ("file", "build", "threads", "fuzz", "details", "fork", "firing", "sweeps")
    ]
    tests += ["tests/engine/test_runtime.py::test_spikes_and_logits_are_pytorchs"]
    tests += ["tests/engine/test_runtime.py::test_what_is_not_there_is_refused"]
    tests += ["tests/engine/test_runtime.py::test_threads_of_python_take_turns"]
    tests += [
        "tests/engine/test_runtime.py::test_no_neuron_is_silent_about_weights_that_are_not_finite"
    ]
    tests += ["tests/engine/test_bispikclm.py::test_spikes_edges_and_logits_are_pytorchs"]
    tests += ["tests/engine/test_converted.py::test_what_neurons_say_and_logits_are_pytorchs"]
    # The interpreter keeps what it likes until its end: no leaks are looked for.
    options = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    watched("address", "libasan.so", tests, tmp_path, **options)


@pytest.mark.slow
def test_under_the_thread_sanitizer(tmp_path: Path) -> None:
    tests = ["tests/engine/test_threads.py"]
    tests += ["tests/engine/test_runtime.py::test_threads_of_python_take_turns"]
    tests += ["tests/engine/test_runtime.py::test_one_token_at_a_time_gives_the_bits_of_the_prompt"]
    tests += [
        "tests/engine/test_bispikclm.py::test_one_token_at_a_time_gives_the_bits_of_the_prompt"
    ]
    tests += [
        "tests/engine/test_converted.py::test_one_token_at_a_time_gives_the_bits_of_the_prompt"
    ]
    # The C library frees the memory of a thread that ended, unseen by the sanitizer.
    suppressions = tmp_path / "known"
    suppressions.write_text("race:_dl_deallocate_tls\n")
    watched("thread", "libtsan.so", tests, tmp_path, TSAN_OPTIONS=f"suppressions={suppressions}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["address,undefined", "thread"])
def test_a_loop_that_throws_ends_in_the_caller(kind: str, tmp_path: Path) -> None:
    """In a thread of the pool an exception once ended the process."""
    program = tmp_path / "check"
    flags = ["-std=c++20", "-O1", "-g", f"-fsanitize={kind}", f"-I{SOURCES}", "-o", str(program)]
    run([tool("g++"), *flags, str(HERE / "check_pool.cpp"), str(SOURCES / "pool.cpp"), "-pthread"])
    run([str(program)])
