"""A saved folder says where its classes are, for programs that never import this package.

    config.json                 "auto_map": {"AutoConfig": "modeling_spikeformers.<config>", ...}
    modeling_spikeformers.py    imports those names from the installed package, and no more

Transformers reads the file where ``trust_remote_code=True`` is given and it does not know the model
type. Where the package was imported before, its classes are registered and the file is never read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from spikeformers.storage import write_text

STUB = "modeling_spikeformers"
_TEXT = '''"""Imports the classes of this model from the installed package spikeformers.

Transformers reads this file where trust_remote_code=True is given. There is nothing else in it.
"""

from spikeformers.models import (
{names}
)
'''


class InstalledCode:
    """A config whose ``save_pretrained`` writes the map and the file; listed before its base."""

    auto_classes: ClassVar[dict[str, str]] = {}
    """Model classes by the Auto class that finds each; `state_classes` sets them."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """As in Transformers, with the file of imports beside config.json."""
        own: dict[str, str] = vars(type(self)).get("auto_classes", {})
        if own:  # a config class that someone derived from ours is not in the package
            classes = {"AutoConfig": type(self).__name__, **own}
            self.auto_map = {auto: f"{STUB}.{name}" for auto, name in classes.items()}
            write_stub(Path(save_directory), sorted(classes.values()))
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing: Transformers would copy the package's own source into each saved folder."""


def state_classes(config: Any, heads: Mapping[str, type]) -> None:
    """Let a config class of this package name the model classes of its folders."""
    config.auto_classes = {auto: model.__name__ for auto, model in heads.items()}


def write_stub(folder: Path, names: list[str]) -> None:
    """Write the file that imports ``names``; StorageError if it cannot be written."""
    lines = "\n".join(f"    {name}," for name in names)
    write_text(folder / f"{STUB}.py", _TEXT.format(names=lines))
