"""Sources of text: the built-in corpus, local files and folders, or the hub.

A corpus is split into train, validation and test by document, never inside one:

- an official split (train, validation and test files or folders, or a data set's own) is kept;
- otherwise the sha256 of a document's name decides whether it is held out; with
  ``validation_fraction`` 1/50 it is if the hash is divisible by 50. If there are at least two
  documents, at least one is held out;
- a single text file is one continuous text: its last paragraphs are held out.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from spikeformers.data import readers
from spikeformers.data.builtin import builtin_documents
from spikeformers.data.readers import Document
from spikeformers.data.shards import is_store
from spikeformers.errors import ConfigError, DataError, nearest
from spikeformers.values import require_kind

SPLITS = ("train", "validation", "test")
_OFFICIAL = re.compile(r"(?:wiki\.)?(train|validation|valid|val|dev|test)(?:[-_.]\d+(?:-of-\d+)?)?")
_DIGEST_VERSION = "corpus 1"  # to be increased when the same input gives other documents
Stream = Callable[[], Iterable[Document]]


@dataclass(frozen=True)
class Corpus:
    """Documents by split, read again at each call so that a large corpus is never in memory.

    ``digest``: sha256 (hex) of the content, the names and the rule of the split.
    ``continuous``: the documents of a split are pieces of one text, joined without a separator.
    ``num_bytes``: size of the input, for progress bars; None if it is not known.
    ``split_by``: a sentence that describes how the corpus is split.
    """

    name: str
    digest: str
    streams: Mapping[str, Stream]
    split_by: str
    continuous: bool = False
    num_bytes: int | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.streams)

    def documents(self, split: str) -> Iterator[str]:
        """Texts of one split, or of ``"all"`` splits in order; empty documents are left out."""
        if split == "all":
            for each in self.splits:
                yield from self.documents(each)
            return
        if split not in self.streams:
            raise DataError(
                f"corpus {self.name} has no {split!r} split; it has {', '.join(self.splits)}."
                f"{nearest(split, self.splits)}"
            )
        try:
            for _, text in self.streams[split]():
                if text and (self.continuous or not text.isspace()):
                    yield text
        except OSError as error:
            raise DataError(f"corpus {self.name} cannot be read: {error}.") from error


def load_corpus(
    source: str | Path,
    *,
    text_field: str = "text",
    validation_fraction: float = 0.05,
    config_name: str | None = None,
) -> Corpus:
    """The corpus that ``source`` names: ``"builtin"``, a file, a folder or a hub data set.

    Files are text (.txt .md ...), JSON Lines (.jsonl .jsonl.gz) or Parquet; folders are searched
    recursively. ``text_field`` is the field or column that holds the text, ``config_name`` the
    configuration of a hub data set. Raises DataError for missing, empty or unreadable data,
    OfflineError if the hub cannot be reached.
    """
    return _open(source, text_field, validation_fraction, config_name, streaming=False)


def stream_corpus(
    source: str | Path,
    *,
    text_field: str = "text",
    validation_fraction: float = 0.05,
    config_name: str | None = None,
) -> Corpus:
    """As `load_corpus`, but a data set of the hub is read row by row and never stored.

    Its digest is that of its name, configuration and revision, since its content is not known yet.
    """
    return _open(source, text_field, validation_fraction, config_name, streaming=True)


def _open(
    source: str | Path,
    text_field: str,
    validation_fraction: float,
    config_name: str | None,
    *,
    streaming: bool,
) -> Corpus:
    require_kind("text_field", text_field, str)
    require_kind("validation_fraction", validation_fraction, float)
    require_kind("config_name", config_name, str | None)
    if not 0 <= validation_fraction < 1:
        raise ConfigError(f"validation_fraction must lie in [0, 1), got {validation_fraction}.")
    fraction = Fraction(validation_fraction).limit_denominator(100_000)
    if str(source) == "builtin":
        return _builtin(fraction)
    path = Path(source).expanduser()
    options = f"{text_field} {fraction}"
    if path.is_file():
        return _file(path, text_field, fraction, options)
    if path.is_dir():
        return _folder(path, text_field, fraction, options)
    _check_hub_name(str(source))
    from spikeformers.data import hub

    read = hub.stream_splits if streaming else hub.load_splits
    streams, digest = read(str(source), config_name, text_field)
    return _finish(
        str(source), _digest(options, [("hub", digest)]), streams, fraction, "its own splits", None
    )


def held_out(name: str, fraction: Fraction) -> bool:
    """Whether the document of this name belongs to the validation split."""
    number = int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest(), "big")
    return number % fraction.denominator < fraction.numerator


def split_by_name(stream: Stream, fraction: Fraction) -> dict[str, Stream]:
    """Train and validation streams of one stream of documents; only train for a single document."""
    if not fraction:
        return {"train": stream}
    chosen, first, second = _least(stream, fraction)
    if not second:  # a single document, or none: nothing can be held out
        return {"train": stream}

    def part(validation: bool) -> Iterator[Document]:
        for name, text in stream():
            inside = name == first if chosen else held_out(name, fraction)
            if inside == validation:
                yield name, text

    return {"train": partial(part, False), "validation": partial(part, True)}


def _least(stream: Stream, fraction: Fraction) -> tuple[bool, str, bool]:
    """``(hold out this one document, its name, there are at least two)``, reading only as needed.

    The hash rule can leave one split of a small corpus empty; then the document with the smallest
    hash is held out instead.
    """
    names: list[str] = []
    sides: set[bool] = set()
    for name, text in stream():
        if text.isspace() or not text:
            continue
        names.append(name)
        sides.add(held_out(name, fraction))
        if len(sides) == 2:
            return False, "", True
    smallest = min(names, key=lambda n: hashlib.sha256(n.encode()).digest(), default="")
    return True, smallest, len(names) > 1


def _builtin(fraction: Fraction) -> Corpus:
    documents = builtin_documents()
    digest = hashlib.sha256()
    for name, text in documents:
        digest.update(f"{name}\0{text}\0".encode("utf-8", "surrogatepass"))
    size = sum(len(text.encode()) for _, text in documents)
    full = _digest(str(fraction), [("builtin", digest.hexdigest())])
    streams = {"train": lambda: documents}
    version = f"documentation of Python {platform.python_version()}"
    return _finish("builtin", full, streams, fraction, version, size)


def _file(path: Path, field: str, fraction: Fraction, options: str) -> Corpus:
    kind = readers.suffix_of(path)
    if not kind:
        suffixes = " ".join((*readers.TEXT, *readers.ROWS))
        raise DataError(f"{path}: this kind of file is not read. Give one of {suffixes}.")
    size = path.stat().st_size
    digest = _digest(options, [(path.name, readers.file_digest(path))])
    if kind in readers.ROWS or readers.has_articles(path):
        stream = partial(_documents, path, path.name, field)
        return _finish(path.name, digest, {"train": stream}, fraction, "", size)

    cut = readers.paragraph_boundary(path, float(fraction)) if fraction else size
    streams: dict[str, Stream] = {"train": partial(_pieces, path, 0, cut)}
    split_by = "too short to hold anything out"
    if cut < size:
        streams["validation"] = partial(_pieces, path, cut, size)
        split_by = f"the last {size - cut} of {size} bytes, from a paragraph on, are validation"
    return _checked(Corpus(path.name, digest, streams, split_by, True, size))


def _folder(folder: Path, field: str, fraction: Fraction, options: str) -> Corpus:
    paths = sorted(
        (path for path in folder.rglob("*") if path.is_file() and readers.suffix_of(path)),
        key=lambda path: path.relative_to(folder).as_posix(),
    )
    paths = [p for p in paths if not any(x.startswith(".") for x in p.relative_to(folder).parts)]
    if not paths:
        refuse_store(folder)
        names = sorted(path.name for path in folder.iterdir())[:8]
        suffixes = " ".join((*readers.TEXT, *readers.ROWS))
        raise DataError(f"{folder}: no file of a kind that is read ({suffixes}); it holds {names}.")

    official, split_by = _official(paths, folder), "official splits"
    if any(_role(path.name) != split for split, group in official.items() for path in group):
        options += " by folder"
    if not official and len(paths) == 1:
        return _file(paths[0], field, fraction, options)
    used = [path for group in official.values() for path in group] if official else paths
    if len(used) < len(paths):
        unused = sorted(p.relative_to(folder).as_posix() for p in set(paths) - set(used))
        further = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        split_by += f"; not used: {', '.join(unused[:3])}{further}"
    size = sum(path.stat().st_size for path in used)
    digests = [(p.relative_to(folder).as_posix(), readers.file_digest(p)) for p in used]
    digest = _digest(options, digests)

    def stream_of(group: list[Path]) -> Iterator[Document]:
        for path in group:
            yield from _documents(path, path.relative_to(folder).as_posix(), field)

    groups = official or {"train": paths}
    streams: dict[str, Stream] = {k: partial(stream_of, v) for k, v in groups.items()}
    return _finish(folder.name, digest, streams, fraction, split_by if official else "", size)


def refuse_store(source: str | Path) -> None:
    """Raise DataError if ``source``, which should be text, is a token store."""
    if is_store(Path(source).expanduser()):
        raise DataError(f"{source} is a token store, and text is needed: only pretrain reads one.")


def _documents(path: Path, name: str, field: str) -> Iterable[Document]:
    kind = readers.suffix_of(path)
    if kind == ".parquet":
        return readers.parquet_rows(path, name, field)
    if kind in readers.ROWS:
        return readers.json_rows(path, name, field)
    if readers.has_articles(path):
        return readers.articles(path, name)
    return [(name, readers.read_text(path))]


def _pieces(path: Path, start: int, end: int) -> Iterator[Document]:
    for number, text in enumerate(readers.text_pieces(path, start, end)):
        yield f"{path.name}:{number}", text


def _role(name: str) -> str | None:
    """The split that a file or folder name states, or None."""
    match = _OFFICIAL.fullmatch(name.lower().removesuffix(readers.suffix_of(Path(name))))
    if match is None:
        return None
    return match[1] if match[1] in ("train", "test") else "validation"


def _official(paths: list[Path], root: Path) -> dict[str, list[Path]]:
    """Files by split, from their names or those of the folders in ``root``; empty if none says so.

    There has to be a train file or a second split: a lone folder ``train`` may be about trains.
    """
    groups: dict[str, list[Path]] = {split: [] for split in SPLITS}
    named = [path for path in paths if _role(path.name)]
    for path in paths:
        top, *below = path.relative_to(root).parts
        if role := _role(path.name) or (_role(top) if below else None):
            groups[role].append(path)
    official = {split: group for split, group in groups.items() if group}
    if "train" not in official or not (len(official) > 1 or set(named) & set(official["train"])):
        return {}
    kinds = sorted({readers.suffix_of(path) for path in named})
    if len(kinds) > 1:
        raise DataError(
            f"{root}: train, validation and test come in several kinds ({', '.join(kinds)}), "
            "which would count a text twice. Leave one kind there."
        )
    return official


def _finish(
    name: str,
    digest: str,
    streams: Mapping[str, Stream],
    fraction: Fraction,
    split_by: str,
    size: int | None,
) -> Corpus:
    """Hold out a validation split if there is none yet, and refuse an empty corpus."""
    if "validation" not in streams and "train" in streams:
        parts = split_by_name(streams["train"], fraction)
        streams = {**parts, **{k: v for k, v in streams.items() if k != "train"}}
        rule = f"by the sha256 of the document's name, {fraction} of them validation"
        if "validation" not in parts:
            rule = "nothing is held out: " + (
                "validation_fraction is 0" if not fraction else "there is only one document"
            )
        split_by = f"{split_by}; {rule}" if split_by else rule
    ordered = {split: streams[split] for split in SPLITS if split in streams}
    return _checked(Corpus(name, digest, ordered, split_by, False, size))


def _checked(corpus: Corpus) -> Corpus:
    if not any(not text.isspace() for text in corpus.documents("train")):
        raise DataError(
            f"corpus {corpus.name} is empty: nothing but white space in its train split."
        )
    return corpus


def _check_hub_name(source: str) -> None:
    looks_local = source.startswith((".", "/", "~")) or "\\" in source or source.count("/") > 1
    if looks_local or readers.suffix_of(Path(source)) or not re.fullmatch(r"[\w./-]+", source):
        raise DataError(
            f"no such file or folder: {source!r}. Give builtin, a text, JSON Lines or Parquet "
            f"file, a folder of them, or a data set on the Hugging Face hub.{_neighbour(source)}"
        )
    if source != "builtin" and nearest(source, ["builtin"]):
        raise DataError(f"no such file, folder or corpus: {source!r}. Did you mean 'builtin'?")


def _neighbour(source: str) -> str:
    parent = Path(source).expanduser().parent
    return nearest(Path(source).name, [p.name for p in parent.iterdir()]) if parent.is_dir() else ""


def _digest(options: str, parts: Iterable[tuple[str, str]]) -> str:
    digest = hashlib.sha256(f"{_DIGEST_VERSION}\n{options}\n".encode())
    for name, content in parts:
        digest.update(f"{name}\0{content}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
