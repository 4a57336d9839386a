"""Parquet files of a downloaded data set in the layout of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spikeformers.errors import DataError

if TYPE_CHECKING:
    import pyarrow as arrow


def hub_files(homes: Sequence[Path], config: str | None, split: str) -> list[Path]:
    """Files of one split, from the first of ``homes`` that has any; an empty list if none has.

    A home holds ``CONFIG/SPLIT-00000-of-00001.parquet``, or the same without CONFIG or in ``data``
    or ``default`` instead, or ``CONFIG/SPLIT/0000.parquet``, into which the hub converts other
    kinds of files.
    """
    named = re.compile(rf"{re.escape(split)}(?:[-.].*)?\.parquet")
    for home in homes:
        places = [home / config] if config and config != "default" else []
        for place in (*places, home / "data", home / "default", home):
            if not place.is_dir():
                continue
            files = sorted(path for path in place.iterdir() if named.fullmatch(path.name))
            if files := files or sorted((place / split).glob("*.parquet")):
                return files
    return []


def read_table(files: Sequence[Path]) -> arrow.Table:
    """All rows of Parquet files; DataError for a file that is not Parquet or has other columns."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    tables = []
    for path in files:
        try:
            tables.append(parquet.read_table(path))
            arrow.unify_schemas([tables[0].schema, tables[-1].schema])
        except (OSError, arrow.ArrowException) as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}") from error
        if tables[-1].column_names != tables[0].column_names:
            raise DataError(
                f"{path} has the columns {tables[-1].column_names}, and {files[0].name} beside it "
                f"{tables[0].column_names}; they are not parts of one split."
            )
    return arrow.concat_tables(tables)
