"""Run a packed model: feed tokens, get logits or text, several sequences over one program."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spikeformers.engine.build import build
from spikeformers.engine.details import TokenDetails, read_details
from spikeformers.engine.file import Packed, read
from spikeformers.engine.sampling import make_sampler
from spikeformers.engine.tokens import EngineTokenizer
from spikeformers.errors import CheckpointError, UsageError
from spikeformers.kernels import choose, native
from spikeformers.values import MOST_THREADS, shortened

if TYPE_CHECKING:
    from spikeformers.kernels._native import Sequence as NativeSequence

CHUNK = 256  # tokens of a prompt that go through the layers together
CACHES = ("auto", "fp32", "fp16")


class Engine:
    """A model ready to run. Several threads may call it; their calls run one after another.

    ``cache`` is how keys and values that are reals are kept (spikes are kept as bits whatever it
    is): fp32, fp16, or auto, which is fp32 beside weights of fp32 and fp16 beside integer ones.
    Raises CheckpointError for a model that the engine cannot run, UsageError for a number of
    threads or a cache that does not exist.
    """

    def __init__(
        self,
        packed: Packed,
        *,
        threads: int | None = None,
        kernels: str | None = None,
        cache: str = "auto",
    ) -> None:
        self.choice = choose(kernels)
        self.packed = packed
        count = native().processors() if threads is None else threads
        if not 1 <= count <= MOST_THREADS:
            raise UsageError(f"the engine takes 1 to {MOST_THREADS} threads, not {count}.")
        count = min(count, native().processors())
        if cache not in CACHES:
            raise UsageError(f"cache is {cache!r}; it must be one of {', '.join(CACHES)}.")
        half = cache == "fp16" or (cache == "auto" and packed.weights != "fp32")
        self.cache = "fp16" if half else "fp32"
        built = build(packed.description, packed.tensors, self.choice.name, count, half)
        self._program, self._buffers = built.program, built.buffers
        self.vocabulary = _count("vocabulary", packed.description)
        self.context = _count("max_position_embeddings", packed.config)

    @property
    def threads(self) -> int:
        """The number of threads: as requested, but at most the number of processors."""
        return self._program.threads

    @cached_property
    def tokenizer(self) -> EngineTokenizer:
        """The model's tokenizer; CheckpointError if the file has none."""
        if not self.packed.tokenizer.get("rules"):
            raise CheckpointError("this engine file was exported without a tokenizer.")
        return EngineTokenizer(self.packed.tokenizer)

    @cached_property
    def dense_weight_bytes(self) -> int:
        """Bytes of weights that one token reads where nothing is zero: each matrix once."""
        return sum(
            self.packed.tensors[operation["weight"]].nbytes
            for operation in self.packed.description["operations"]
            if operation["op"] == "linear"
        )

    def sequence(self, *, details: bool = False) -> NativeSequence:
        """An empty sequence; ``tokens`` and ``bytes`` are its length and its cache's size.

        With ``details``, `keep_details` applies to it.
        """
        sequence = self._program.sequence()
        if details:
            self.keep_details(sequence)
        return sequence

    def keep_details(self, sequence: NativeSequence) -> None:
        """Let a sequence keep the details of its last token from now on, which takes some time.

        Sums over tokens begin anew. Raises UsageError for a sequence of another engine.
        """
        try:
            self._program.keep_details(sequence)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{error}.") from error

    def details(self, sequence: NativeSequence) -> TokenDetails:
        """What the last token of a sequence cost, by layer, and who won its attention.

        Raises UsageError for a sequence that keeps no details, one of another engine, and one
        whose last call failed.
        """
        try:
            return read_details(self._program.details(sequence))
        except (ValueError, TypeError) as error:
            raise UsageError(f"{error}.") from error

    def fork(self, sequence: NativeSequence) -> NativeSequence:
        """Another sequence of the same tokens, which continues on its own.

        Both share their pages of 64 tokens until one of them writes to a page. Raises UsageError
        for a sequence of another engine, or one whose last call failed.
        """
        try:
            return self._program.fork(sequence)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{error}.") from error

    def feed(self, sequence: NativeSequence, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append ``tokens`` to a sequence; logits ``[V]`` of the token after the last.

        Raises UsageError for a token outside the vocabulary, or more tokens than the context.
        """
        return self.feed_all(sequence, tokens, last=True)[0]

    def feed_all(
        self, sequence: NativeSequence, tokens: Sequence[int], *, last: bool = False
    ) -> NDArray[np.float32]:
        """As `feed`, with logits ``[T, V]`` after every token, or ``[1, V]`` after the last."""
        return self._feed(sequence, tokens, 1 if last else len(tokens))

    def tail(self, tokens: Sequence[int], count: int) -> NDArray[np.float32]:
        """Logits ``[count, V]`` after each of the last ``count`` tokens of a text by itself."""
        _check_tail(tokens, count)
        return self._feed(self.sequence(), tokens, count)

    def tails(
        self, texts: Sequence[Sequence[int]], counts: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        """As `tail` of several texts, in one go: what all of them begin with is read once."""
        for tokens, count in zip(texts, counts, strict=True):
            _check_tail(tokens, count)
        if not texts:
            return []
        most = min(len(tokens) - count for tokens, count in zip(texts, counts, strict=True))
        shared = next((i for i in range(most) if len({text[i] for text in texts}) > 1), most)
        if len(texts) == 1 or sum(len(tokens) - shared for tokens in texts) > CHUNK:
            return [self.tail(*each) for each in zip(texts, counts, strict=True)]
        begun = self.sequence()
        if shared:
            self.feed(begun, texts[0][:shared])
        sequences: list[NativeSequence] = []
        ids: list[int] = []
        rows: list[int] = []
        for tokens, count in zip(texts, counts, strict=True):
            rest = self._ids(tokens[shared:])
            rows += range(len(ids) + len(rest) - count, len(ids) + len(rest))
            sequences += [self.fork(begun)] * len(rest)
            ids += rest
        return np.split(self._forward(sequences, ids, rows), np.cumsum(counts)[:-1])

    def _feed(
        self, sequence: NativeSequence, tokens: Sequence[int], count: int
    ) -> NDArray[np.float32]:
        if not len(tokens):
            raise UsageError("no tokens: a sequence is continued with at least one.")
        logits, first = [], len(tokens) - count
        for start in range(0, len(tokens), CHUNK):
            piece = self._ids(tokens[start : start + CHUNK])
            rows = list(range(max(0, first - start), len(piece)))
            logits.append(self._forward([sequence] * len(piece), piece, rows))
        return np.concatenate(logits)

    def step(
        self, sequences: Sequence[NativeSequence], tokens: Sequence[int]
    ) -> NDArray[np.float32]:
        """One token for each of several sequences at once; logits ``[len(sequences), V]``.

        Raises UsageError for a repeated sequence, or one of another engine.
        """
        texts, ids = list(sequences), self._ids(tokens)
        if len({id(text) for text in texts}) < len(texts):
            raise UsageError("a sequence comes twice: a step appends one token to each.")
        return self._forward(texts, ids, list(range(len(ids))))

    def advance(self, sequence: NativeSequence, token: int) -> int:
        """Append one token and return the likeliest next: the logits stay inside."""
        try:
            return self._program.advance(sequence, *self._ids([token]))
        except (ValueError, TypeError) as error:
            raise UsageError(f"{error}.") from error
        except OverflowError as error:
            raise _not_finite(error) from error

    def generate(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[int]:
        """Tokens that follow ``prompt``, one at a time, drawn as in `engine.sampling`.

        It does not stop at an end token; the caller does.
        """
        choose_token = make_sampler(temperature, top_k, top_p, seed)
        sequence = self.sequence()
        token = choose_token(self.feed(sequence, prompt))
        for left in range(max_new_tokens - 1, -1, -1):
            yield token
            if left == 0:
                return
            if temperature == 0:
                token = self.advance(sequence, token)
            else:
                token = choose_token(self.feed(sequence, [token]))

    def counters(self) -> dict[str, int]:
        """Counts since loading: tokens, neurons, events, bytes of weights and cache."""
        return self._program.counters()

    def time(self, timed: bool = True) -> None:
        """From now on, take the time of each part of a step, from zero; or take none."""
        self._program.time(timed)

    def seconds(self) -> dict[str, float]:
        """Seconds by part since `time` was called.

        Parts: products, neurons (and norms), attention, head, sampling (of `advance`), other.
        """
        return self._program.seconds()

    def values(self, buffer: str) -> NDArray[Any]:
        """The content of a buffer of the description after the last call, ``[S * T, width]``."""
        if buffer not in self._buffers:
            raise UsageError(f"no buffer {buffer!r}; there are {', '.join(self._buffers)}.")
        return self._program.values(self._buffers[buffer])

    def _ids(self, tokens: Sequence[int]) -> list[int]:
        """Tokens as plain numbers. Raises UsageError for tokens outside the vocabulary."""
        ids = []
        for token in tokens:
            try:
                ids.append(operator.index(token))
            except TypeError as error:
                raise UsageError(f"a token is a whole number, not {token!r}.") from error
            if not 0 <= ids[-1] < self.vocabulary:
                raise UsageError(
                    f"token {ids[-1]} is not among the {self.vocabulary} of the vocabulary."
                )
        return ids

    def _forward(
        self, sequences: list[NativeSequence], tokens: list[int], rows: list[int]
    ) -> NDArray[np.float32]:
        try:
            return self._program.forward(sequences, tokens, rows)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{error}.") from error
        except OverflowError as error:
            raise _not_finite(error) from error


def _check_tail(tokens: Sequence[int], count: int) -> None:
    if not 1 <= count <= len(tokens):
        raise UsageError(f"logits of {count} tokens are wanted, of a text of {len(tokens)}.")


def _not_finite(error: OverflowError) -> CheckpointError:
    return CheckpointError(
        f"the model computes values that are not finite ({error}): its weights are damaged, or too "
        "large. The texts that it was reading cannot be continued."
    )


def _count(key: str, section: Mapping[str, Any]) -> int:
    value = section.get(key)
    if type(value) is not int or value < 1:
        raise CheckpointError(
            f"the engine file says {key} is {shortened(value)}; it must be a whole number from 1."
        )
    return value


class EngineSystem:
    """An engine as `spikeformers.evaluation.systems` times it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.text = engine.sequence()

    def begin(self, ids: Sequence[int]) -> None:
        """Read a prompt."""
        self.text = self.engine.sequence()
        self.engine.feed(self.text, ids)

    def step(self, token: int) -> None:
        """Append one token."""
        self.engine.advance(self.text, token)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors of the file."""
        return sum(tensor.nbytes for tensor in self.engine.packed.tensors.values())

    def counters(self) -> dict[str, int]:
        """The engine's counts since it was loaded."""
        return self.engine.counters()


def open_system(file: str, threads: int) -> EngineSystem:
    """Open an engine file to be measured (`spikeformers.evaluation.measured.Program`)."""
    return EngineSystem(load(file, threads=threads))


def load_engine(
    path: str | Path,
    *,
    threads: int | None = None,
    kernels: str | None = None,
    cache: str = "auto",
    huge_pages: bool | None = None,
) -> Engine:
    """Open an engine file; ``threads`` are all processors unless given.

    ``cache`` is as `Engine` takes it. ``huge_pages`` copies the weights into memory in pages of
    2 MiB, which the processor reads faster, where the system allows it; without them the file is
    mapped, only the rows that fire become resident, and processes share them. None copies integer
    weights that take at most a quarter of the memory that is free.

    Raises CheckpointError for a file that is not a complete engine file, EngineUnavailable if the
    native kernels are missing or cannot run, UsageError for huge pages where the system has none.
    """
    choose(kernels)
    packed = read(path, huge_pages=huge_pages)
    return Engine(packed, threads=threads, kernels=kernels, cache=cache)


load = load_engine  # as `spikeformers.engine.load`
