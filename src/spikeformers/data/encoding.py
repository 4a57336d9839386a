"""Text into token ids: documents in pieces, pieces in batches, batches encoded here or elsewhere.

A batch is the unit of work. Its bounds depend on the documents only, so the tokens of a corpus are
the same however many processes encode it. `Encoder` encodes a batch in this process; `Pool` sends
batches to processes of their own and returns the results in order.

A worker (`encoding_worker`) reads the tokenizer and then batches from its
standard input and writes results to its standard output, each as one line of JSON and the bytes
that the line announces. It ends when its input does, so a killed parent leaves no workers behind.
"""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from spikeformers.data.tokenizers import separator_id
from spikeformers.errors import DataError, SpikeformersError
from spikeformers.foreign import encoding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PIECE = 1 << 18  # characters handed to the tokenizer at once, from a long document
BATCH = 1 << 21  # characters in one batch
AHEAD = 2  # batches per worker that are read before their turn
_CUT = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")  # no tokenizer merges across this
Piece = tuple[str, bool]
"""A text, and whether a document ends with it."""


@dataclass
class Counts:
    """Sizes of a text; bytes (UTF-8) and words (between white space) leave separators out."""

    tokens: int = 0
    bytes: int = 0
    words: int = 0
    documents: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of a text that follows."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class Encoded:
    """The tokens of a batch, as little-endian integers, and its counts."""

    content: bytes
    counts: Counts
    largest_id: int


def batches(documents: Iterable[str], continuous: bool) -> Iterator[list[Piece]]:
    """Documents in batches of about ``BATCH`` characters; ``continuous`` as in a `Corpus`."""
    held: list[Piece] = []
    size = 0
    for piece in _pieces(documents, continuous):
        held.append(piece)
        size += len(piece[0])
        if size >= BATCH:
            yield held
            held, size = [], 0
    if held:
        yield held


def _pieces(documents: Iterable[str], continuous: bool) -> Iterator[Piece]:
    """Documents in pieces of about PIECE characters, cut at a space between two letters."""
    started = False
    for text in documents:
        started = True
        start = 0
        while len(text) - start > PIECE:
            space = _CUT.search(text, start + PIECE // 2, start + PIECE)
            stop = space.start() if space else start + PIECE
            yield text[start:stop], False
            start = stop
        yield text[start:], not continuous
    if continuous and started:
        yield "", True


def dtype_of(tokenizer: PreTrainedTokenizerFast) -> np.dtype[Any]:
    """The type of the stored ids: two bytes if the vocabulary permits, else four."""
    return np.dtype("<u2" if len(tokenizer) <= 1 << 16 else "<u4")


@dataclass(frozen=True)
class Rules:
    """What an encoder needs: the tokenizer's own JSON, the separator's id, the type of the ids."""

    tokenizer: str
    separator: int
    dtype: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Rules:
        """The rules of a tokenizer; ConfigError if it has no separator."""
        backend = tokenizer.backend_tokenizer.to_str()
        return cls(backend, separator_id(tokenizer), dtype_of(tokenizer).str)


class Encoder:
    """Encodes batches in this process.

    Special tokens that are spelled out in the text are encoded as text, so that a text cannot
    contain a false end of document.
    """

    def __init__(self, rules: Rules) -> None:
        from tokenizers import Tokenizer

        self._backend = Tokenizer.from_str(rules.tokenizer)
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = True
        self._dtype = np.dtype(rules.dtype)
        self._end = np.array([rules.separator], dtype=self._dtype)

    def __call__(self, pieces: list[Piece], name: str = "the corpus") -> Encoded:
        """Tokens of a batch of the text ``name``; DataError if it cannot be encoded."""
        with encoding(f"the text of {name}"):
            encodings = self._backend.encode_batch_fast(
                [text for text, _ in pieces], add_special_tokens=False
            )
        arrays, counts = [], Counts()
        for (text, ends), encoded in zip(pieces, encodings, strict=True):
            arrays.append(np.array(encoded.ids, dtype=self._dtype))
            if ends:
                arrays.append(self._end)
            counts.documents += ends
            counts.bytes += len(text.encode("utf-8"))
            counts.words += len(text.split())
        tokens = np.concatenate(arrays)
        counts.tokens = len(tokens)
        return Encoded(tokens.tobytes(), counts, int(tokens.max()) if len(tokens) else -1)


def encoded(
    rules: Rules, work: Iterable[list[Piece]], name: str, workers: int
) -> Generator[Encoded, None, None]:
    """Encode the batches ``work`` of the text ``name``, in order, in ``workers`` processes.

    One worker is this process. Raises DataError for a text that cannot be encoded.
    """
    if workers == 1:
        encoder = Encoder(rules)
        for pieces in work:
            yield encoder(pieces, name)
        return
    with Pool(rules, workers) as pool:
        yield from pool.encode(work, name)


class Pool:
    """Worker processes that encode batches; a context manager.

    At most ``AHEAD`` batches per worker are in memory beside those that are being encoded.
    """

    def __init__(self, rules: Rules, workers: int) -> None:
        self.rules, self.workers = rules, workers

    def __enter__(self) -> Pool:
        self._processes = [_start(self.rules) for _ in range(self.workers)]
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for process in self._processes:
            self._free.put(process)
        self._threads = ThreadPoolExecutor(self.workers)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):  # what a killed worker did not read
                        stream.close()

    def encode(self, work: Iterable[list[Piece]], name: str) -> Iterator[Encoded]:
        """The encoded batches, in order."""
        waiting: deque[Future[Encoded]] = deque()
        for pieces in work:
            waiting.append(self._threads.submit(self._send, pieces, name))
            if len(waiting) > self.workers * (1 + AHEAD):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _send(self, pieces: list[Piece], name: str) -> Encoded:
        process = self._free.get()
        try:
            texts = [text.encode("utf-8", "surrogatepass") for text, _ in pieces]
            header = {"sizes": [len(text) for text in texts], "ends": [e for _, e in pieces]}
            _write(_open(process.stdin), header | {"name": name}, b"".join(texts))
            answer, content = _read(_open(process.stdout))
        except (OSError, EOFError) as error:
            code = process.poll()
            raise SpikeformersError(
                f"a worker that encodes {name} ended"
                f"{'' if code is None else f' with code {code}'}; perhaps the system stopped it "
                "because memory ran out. Run the same command again to continue, with fewer "
                "--workers."
            ) from error
        finally:
            self._free.put(process)
        if "error" in answer:
            raise DataError(answer["error"])
        return Encoded(content, Counts(**answer["counts"]), answer["largest_id"])


def _start(rules: Rules) -> subprocess.Popen[bytes]:
    """A worker that has its tokenizer."""
    environment = os.environ | {
        "TOKENIZERS_PARALLELISM": "false",  # a worker is one processor's work
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "spikeformers.data.encoding_worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    )  # fmt: skip
    with suppress(OSError):  # it has ended already: the first batch says so
        _write(_open(process.stdin), asdict(rules), b"")
    return process


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise EOFError
    return stream


def _write(stream: IO[bytes], header: dict[str, Any], content: bytes) -> None:
    line = json.dumps(header | {"size": len(content)})
    stream.write(line.encode("ascii") + b"\n")
    stream.write(content)
    stream.flush()


def _read(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """The next header and its content; EOFError at the end."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    header: dict[str, Any] = json.loads(line)
    content = stream.read(header.pop("size"))
    return header, content


def _cut_up(content: bytes, sizes: list[int]) -> Iterator[str]:
    start = 0
    for size in sizes:
        yield content[start : start + size].decode("utf-8", "surrogatepass")
        start += size


def work(source: IO[bytes], target: IO[bytes], make: Callable[[Rules], Encoder] = Encoder) -> None:
    """Encode the batches that arrive in ``source`` until it ends."""
    with suppress(EOFError, BrokenPipeError):
        rules, _ = _read(source)
        encoder = make(Rules(**rules))
        while True:
            header, content = _read(source)
            texts = _cut_up(content, header["sizes"])
            try:
                result = encoder(list(zip(texts, header["ends"], strict=True)), header["name"])
            except (DataError, UnicodeError) as error:
                _write(target, {"error": str(error)}, b"")
                continue
            answer = {"counts": asdict(result.counts), "largest_id": result.largest_id}
            _write(target, answer, result.content)
