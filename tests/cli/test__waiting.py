from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from spikeformers.cli._waiting import CHOSEN_BY, wait_passively

LOADS_TORCH = """
import spikeformers.cli as cli
cli.app = lambda *_, **__: __import__("torch")
cli.main([])
"""


def openmp_says(**given: str) -> dict[str, str]:
    """What OpenMP itself reports of its settings when the command line has loaded torch."""
    environment = {key: value for key, value in os.environ.items() if key not in CHOSEN_BY}
    done = subprocess.run(
        [sys.executable, "-c", LOADS_TORCH],
        env=environment | {"OMP_DISPLAY_ENV": "verbose"} | given,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(re.findall(r"(\w+)\s*=\s*'([^']*)'", done.stderr.upper()))


@pytest.mark.skipif(sys.platform != "linux", reason="GOMP_SPINCOUNT is of the library of Linux")
def test_the_command_line_lets_openmp_wait_asleep_after_a_moment():
    environment = openmp_says()
    assert (environment["OMP_WAIT_POLICY"], environment["GOMP_SPINCOUNT"]) == ("PASSIVE", "1000")


@pytest.mark.skipif(sys.platform != "linux", reason="GOMP_SPINCOUNT is of the library of Linux")
def test_what_the_user_has_set_stays():
    environment = openmp_says(OMP_WAIT_POLICY="active", GOMP_SPINCOUNT="77")
    assert (environment["OMP_WAIT_POLICY"], environment["GOMP_SPINCOUNT"]) == ("ACTIVE", "77")


def test_a_child_of_the_command_line_inherits_the_setting():
    show = "import subprocess, sys\nimport spikeformers.cli as cli\n"
    show += "child = [sys.executable, '-c', 'import os; print(os.environ[\"OMP_WAIT_POLICY\"])']\n"
    show += "cli.app = lambda *_, **__: subprocess.run(child)\ncli.main([])\n"
    environment = {key: value for key, value in os.environ.items() if key not in CHOSEN_BY}
    for arguments, seen in (({}, "passive"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        done = subprocess.run(
            [sys.executable, "-c", show],
            env=environment | arguments,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == seen, done.stderr


@pytest.mark.parametrize("name", CHOSEN_BY)
def test_any_variable_about_waiting_counts_as_chosen(name):
    environment = {name: "whatever"}
    wait_passively(environment)
    assert environment == {name: "whatever"}


def test_an_empty_environment_is_made_passive():
    environment: dict[str, str] = {}
    wait_passively(environment)
    assert environment == {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
