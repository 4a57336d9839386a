"""Rows of zero-shot sets in local files, with the columns that the harness' definitions expect.

For the hub data set OWNER/NAME, configuration C, split S, these are tried in the folder, in order:

    OWNER/NAME/ or NAME/, then C/S-*.parquet and so on   the hub's own layout, see `hub_files`
    NAME__C__S.arrow                                     a saved split
    the file names in `PLAIN`                            sets in their original files
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from spikeformers.data.hub_files import hub_files, read_table
from spikeformers.errors import DataError

Row = dict[str, Any]


def _arc_prompt(row: Row) -> Row:
    letters = [chr(ord("A") + place) for place in range(len(row["choices"]))]
    return {
        "question": row["query"].removeprefix("Question: "),
        "choices": {"text": row["choices"], "label": letters},
        "answerKey": letters[row["gold"]],
    }


def _boolq(row: Row) -> Row:
    return row if "label" in row else row | {"label": int(row["answer"])}


def _unchanged(row: Row) -> Row:
    return row


def _headqa(content: Any) -> Iterator[Row]:
    for exam in content["exams"].values():
        for row in exam["data"]:
            yield row | {"qid": int(row["qid"]), "ra": int(row["ra"])}


PLAIN: dict[tuple[str, str], tuple[str, Callable[[Row], Row]]] = {
    ("arc_easy", "test"): ("arc_easy.jsonl", _arc_prompt),
    ("arc_challenge", "test"): ("arc_challenge.jsonl", _arc_prompt),
    ("hellaswag", "validation"): ("hellaswag_val.jsonl.gz", _unchanged),
    ("lambada_openai", "test"): ("lambada_test.jsonl", _unchanged),
    ("headqa_en", "test"): ("headqa/test_HEAD_EN.json", _unchanged),
    ("headqa_en", "validation"): ("headqa/dev_HEAD_EN.json", _unchanged),
}
ARROW_NAMES = {"boolq": "boolq__none", "piqa": "piqa__plain_text"}


def find_rows(
    folder: Path, task: str, hub_id: str, config: str | None, split: str
) -> tuple[list[Path], Callable[[], Iterator[Row]]] | None:
    """Files of one split and the function that reads them, or None if the folder has none."""
    adapt = _boolq if task == "boolq" else _unchanged
    name = hub_id.rpartition("/")[2]
    if files := hub_files((folder / hub_id, folder / name), config, split):
        return files, lambda: map(adapt, _parquet(files))
    stem = ARROW_NAMES.get(task, f"{name}__{config or 'none'}")
    arrow = folder / f"{stem}__{split}.arrow"
    if arrow.is_file():
        return [arrow], lambda: map(adapt, _arrow(arrow))
    if (task, split) in PLAIN:
        file, plain = PLAIN[task, split]
        if (folder / file).is_file():
            return [folder / file], lambda: map(plain, _json(folder / file))
    return None


def _json(path: Path) -> Iterable[Row]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as stream:
            if path.suffix == ".json":
                return list(_headqa(json.load(stream)))
            return [json.loads(line) for line in stream if line.strip()]
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a zero-shot set: {error!r}.") from error


def _parquet(files: Sequence[Path]) -> Iterator[Row]:
    yield from read_table(files).to_pylist()


def _arrow(path: Path) -> Iterator[Row]:
    import pyarrow as arrow

    try:
        with arrow.memory_map(str(path)) as source:
            yield from arrow.ipc.open_stream(source).read_all().to_pylist()
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as an Arrow stream: {error}") from error
