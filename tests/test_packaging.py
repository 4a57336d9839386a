"""The wheel that ``python -m build`` makes, installed into an environment without this source."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import spikeformers

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def call(*words: object, cwd: Path) -> str:
    ended = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=1200,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built in isolation; skipped where no package index gives the build its tools."""
    pytest.importorskip("build")
    out = tmp_path_factory.mktemp("dist")
    try:
        call(sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT, cwd=out)
    except AssertionError as error:
        if re.search(r"No matching distribution found for (scikit|nanobind)", str(error)):
            pytest.skip("no package index: scikit-build-core and nanobind cannot be installed")
        raise
    (path,) = out.glob("*.whl")
    return path


def test_it_has_the_package_the_kernels_and_the_types_and_no_source_of_them(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.startswith(f"spikeformers-{spikeformers.__version__}-")
    assert "spikeformers/py.typed" in names
    assert "spikeformers/serving/page.html" in names
    home = ROOT / "src" / "spikeformers" / "packaged"
    files = [file for file in home.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert {f"spikeformers/packaged/{file.relative_to(home)}" for file in files} <= {*names}
    assert [name for name in names if re.search(r"kernels/_native.*\.(so|dylib)$", name)]
    assert not [name for name in names if name.endswith((".cpp", ".hpp", ".inl"))]
    assert not [name for name in names if name.startswith("tests/")]


def test_it_runs_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """With the dependencies of these tests, which are found behind the environment's own."""
    place = tmp_path / "venv"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    own = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))",
                    cwd=tmp_path).strip())  # fmt: skip
    paths = [path for path in sys.path if path.endswith("site-packages")]
    (own / "dependencies.pth").write_text("\n".join(paths) + "\n")
    options = ("--no-deps", "--no-index", "--target", own)
    call(sys.executable, "-m", "pip", "install", *options, wheel, cwd=tmp_path)
    where = (
        "import spikeformers, spikeformers.kernels as k; print(spikeformers.__file__, k.choose())"
    )
    assert call(python, "-c", where, cwd=tmp_path).startswith(str(own))
    version = call(python, "-m", "spikeformers", "--version", cwd=tmp_path)
    assert version == f"spikeformers {spikeformers.__version__}\n"
    described = call(python, "-m", "spikeformers", "info", "wd-spikingformer-tiny", cwd=tmp_path)
    assert "wd_spikingformer" in described or "WD" in described


def test_the_changelog_has_what_the_version_becomes() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    version = re.escape(spikeformers.__version__)
    assert re.search(rf"## \[{version}\]|What becomes {version}\.", text)
    assert sysconfig.get_python_version() in (ROOT / "pyproject.toml").read_text()
