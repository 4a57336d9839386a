"""The workflows agree with the project: its Python versions, its make targets, its tools."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="a source distribution has no workflows")


def jobs_of(path: Path) -> dict[str, Any]:
    jobs: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return jobs


def versions() -> list[str]:
    """Python versions that the classifiers of the package name."""
    classifiers = (ROOT / "pyproject.toml").read_text()
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', classifiers)


def test_tests_run_on_every_supported_python_on_linux_and_macos() -> None:
    matrix = jobs_of(ROOT / ".github" / "workflows" / "tests.yml")["tests"]["strategy"]["matrix"]
    assert matrix == {"os": ["ubuntu-latest", "macos-latest"], "python": versions()}


def test_wheels_are_built_for_every_supported_python() -> None:
    steps = jobs_of(ROOT / ".github" / "workflows" / "wheels.yml")["wheels"]["steps"]
    (build,) = (step["env"]["CIBW_BUILD"] for step in steps if "CIBW_BUILD" in step.get("env", {}))
    assert build.split() == [f"cp{version.replace('.', '')}-*" for version in versions()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_each_job_has_a_time_limit_and_runs_targets_that_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name, job in jobs_of(path).items():
        assert "uses" in job or job["timeout-minutes"] <= 120, name
        for step in job.get("steps", []):
            for target in re.findall(r"^make (\w+)", step.get("run", ""), re.MULTILINE):
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_only_the_job_that_publishes_may_ask_for_an_identity() -> None:
    allowed = [
        (path.stem, name)
        for path in WORKFLOWS
        for name, job in jobs_of(path).items()
        if "id-token" in job.get("permissions", {})
    ]
    assert allowed == [("release", "publish")]


def test_the_hooks_before_a_commit_run_the_tools_of_the_environment() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    assert entries[:3] == [".venv/bin/ruff format", ".venv/bin/ruff check", ".venv/bin/mypy"]
    assert entries[3].startswith(".venv/bin/git-clang-format --binary .venv/bin/clang-format")
    assert len(entries) == 4
    assert '"clang-format>=' in (ROOT / "pyproject.toml").read_text()


def test_the_styles_of_the_kernels_are_complete_yaml() -> None:
    style = yaml.safe_load((ROOT / ".clang-format").read_text())
    assert (style["BasedOnStyle"], style["ColumnLimit"]) == ("Google", 100)
    checks = yaml.safe_load((ROOT / ".clang-tidy").read_text())["Checks"].split(",")
    assert checks[0].strip() == "-*"  # nothing that is not named
    assert all(checks)
