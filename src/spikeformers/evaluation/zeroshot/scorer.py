"""The harness' ``LM`` for any causal model: log-likelihoods of options after a context.

    context  c_1 ... c_n    option  o_1 ... o_m    input  c_1 ... c_n o_1 ... o_{m-1}
    ll = sum_i log p(o_i | c_1 ... c_n o_1 ... o_{i-1})

Tokens are the harness' own: a context's trailing spaces move to its option, and context and option
are encoded together and cut at the length of the context's own encoding. As in the harness' Hugging
Face backend, requests with the same input share a pass, the longest go first, and batches are
padded on the right without a mask, so a dense model gets the same numbers in batches of the same
size. Differs: log-softmax is computed in float32 for weights of any type. For cases that stop this
backend or that it passes over there are rules, and ``notes`` counts their uses:

    truncated    context and option exceed C positions: tokens on the context's left are dropped
    split        an option alone exceeds C: all of it is scored, in consecutive windows of C
    merged       the tokenizer joins the context's end with the option's beginning, so that the cut
                 falls inside a token of both (as in the harness, the tokens after it are scored)
    unaligned    no token follows it: the option is encoded separately
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from spikeformers.errors import ConfigError, DataError
from spikeformers.evaluation.zeroshot.cache import LikelihoodCache, Value, request_key
from spikeformers.foreign import encoding
from spikeformers.models import load_reference
from spikeformers.progress import Move

Request = tuple[Any, list[int], list[int]]  # the strings, context, option
AUTO_TOKENS = {"cpu": 4096}  # of a batch, padding included
AUTO_TOKENS_ELSEWHERE = 65536


@dataclass(frozen=True)
class Piece:
    """An input, and the tokens to score at its end; ``order`` is the harness' sorting key."""

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    order: tuple[int, tuple[int, ...]]

    @cached_property
    def key(self) -> str:
        return request_key(self.tokens, self.targets)


@register_model("spikeformers")
class SpikeformersLM(TemplateLM):
    """``pretrained`` is a model, or a name that `load_reference` opens.

    ``batch_size`` is a number or "auto": as many inputs as fit into a budget of tokens, which is
    halved if memory runs out. ``cached`` runs a context once and its options from the key-value
    cache; ``padding`` "left" pads with a mask. Both are for checks and speed, and change rounding.
    """

    def __init__(
        self,
        pretrained: Any,
        tokenizer: Any = None,
        *,
        gguf_file: str = "",
        batch_size: int | str = "auto",
        max_length: int | None = None,
        padding: str = "right",
        sort: bool = True,
        cached: bool = False,
        cache: LikelihoodCache | None = None,
        progress: Move | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(pretrained, str):
            pretrained, tokenizer = load_reference(pretrained, gguf_file=gguf_file)
        positions = self._open(pretrained, device)
        self.tokenizer = tokenizer
        if padding not in ("left", "right"):
            raise ConfigError(f"padding is {padding!r}; it must be left or right.")
        self.batch_size = _batch_size(batch_size)
        self.max_batch_size = max_batch_size
        self.max_length = max_length or positions
        self.padding, self.sort, self.cached = padding, sort, cached
        self.cache = cache or LikelihoodCache({}, folder=None)
        self.progress = progress
        self.notes: Counter[str] = Counter()
        self._shrunk = 1  # "auto" has divided its budget by this, after running out of memory

    def _open(self, pretrained: Any, device: str | None) -> int:
        """Set the model; returns the number of its positions."""
        self.model = pretrained.eval() if device is None else pretrained.eval().to(device)
        self._device: torch.device = self.model.device
        return positions_of(self.model)

    @cached_property
    def _one_logit(self) -> dict[str, int]:
        """The argument that limits the head to the last position, if the model has one."""
        parameters = signature(self.model.forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        with encoding():
            return self._ids(string, add_special_tokens)

    def _ids(self, string: str, add_special_tokens: bool | None) -> list[int]:
        if add_special_tokens is None:
            begun = has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
            if not begun:
                return list(self.tokenizer.encode(string))
            add_special_tokens = False
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        begin = context.rstrip()
        moved = context[len(begin) :] + continuation
        start, joined = self.tok_encode(begin), self.tok_encode(begin + moved)
        option = joined[len(start) :]
        self.notes["merged"] += joined[: len(start)] != start
        if not option:
            self.notes["unaligned"] += 1
            option = self.tok_encode(moved, add_special_tokens=False)
        return start, option

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[Value]:
        for request in requests:
            if not request.args[1]:
                raise DataError(f"an option of {request.task_name} is the empty text.")
        values: list[Value] = super().loglikelihood(requests, disable_tqdm=True)
        return values

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        totals = []
        for request in requests:
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
            )
            parts: list[Request] = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(sum(value for value, _ in self._loglikelihood_tokens(parts)))
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        raise ConfigError("tasks in which a model writes freely are not among the zero-shot tasks.")

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = True, **_: Any
    ) -> list[Value]:
        by_request = [list(self._pieces(context, option)) for _, context, option in requests]
        pieces = [piece for request in by_request for piece in request]
        done = 0
        for batch in self._cached_batches(pieces) if self.cached else self._batches(pieces):
            if any(p.key not in self.cache.values for group in batch for p in group):
                self._store(batch, self._score(batch))
            done += sum(map(len, batch))
            if self.progress is not None:
                self.progress(done, len(pieces))
        values = [[self.cache.values[piece.key] for piece in request] for request in by_request]
        return [(sum(v for v, _ in parts), all(greedy for _, greedy in parts)) for parts in values]

    def _pieces(self, context: list[int], option: list[int]) -> Iterator[Piece]:
        """The pieces of a request: one, or several windows if the option alone is too long."""
        tokens, limit = context + option, self.max_length
        order = (-len(tokens), tuple(tokens))
        if len(option) <= limit:
            self.notes["truncated"] += len(tokens) > limit + 1
            yield Piece(tuple(tokens[-(limit + 1) : -1]), tuple(option), order)
            return
        self.notes["split"] += 1
        for start in range(len(context), len(tokens), limit):
            end = min(start + limit, len(tokens))
            yield Piece(
                tuple(tokens[max(0, end - 1 - limit) : end - 1]), tuple(tokens[start:end]), order
            )

    def _batches(self, pieces: Sequence[Piece]) -> Iterator[list[list[Piece]]]:
        """Groups of pieces with the same input, in batches of groups."""
        groups: dict[tuple[int, ...], list[Piece]] = {}
        for piece in pieces:
            groups.setdefault(piece.tokens, []).append(piece)
        listed = list(groups.values())
        if self.sort:  # by the longest option of each group, as the harness does
            listed.sort(key=lambda group: max(group, key=lambda p: len(p.targets)).order)
        place = 0
        while place < len(listed):
            count = self.batch_size
            if count == "auto":
                budget = AUTO_TOKENS.get(self._device.type, AUTO_TOKENS_ELSEWHERE) // self._shrunk
                first = listed[place][0].tokens if self.sort else max(groups, key=len)
                count = max(1, budget // len(first))
            yield listed[place : place + int(count)]
            place += int(count)

    def _cached_batches(self, pieces: Sequence[Piece]) -> Iterator[list[list[Piece]]]:
        """One batch per context, with all its options."""
        contexts: dict[tuple[int, ...], list[list[Piece]]] = {}
        for piece in pieces:
            start = piece.tokens[: len(piece.tokens) - len(piece.targets) + 1]
            contexts.setdefault(start, []).append([piece])
        yield from contexts.values()

    def _score(self, batch: list[list[Piece]]) -> list[Tensor]:
        """Logits ``[T, V]`` at the end of each group's input; T is the longest target's length."""
        inputs = [group[0].tokens for group in batch]
        counts = [max(len(piece.targets) for piece in group) for group in batch]
        try:
            if self.cached:
                return self._from_cache(inputs, counts)
            return self._without_cache(inputs, counts)
        except torch.OutOfMemoryError:
            if self.batch_size != "auto" or len(batch) == 1:
                raise
            self._shrunk *= 2
        half = len(batch) // 2
        return self._score(batch[:half]) + self._score(batch[half:])

    @torch.inference_mode()
    def _without_cache(self, inputs: list[tuple[int, ...]], counts: list[int]) -> list[Tensor]:
        longest = max(map(len, inputs))
        ids = torch.zeros(len(inputs), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(inputs):
            first = longest - len(tokens) if self.padding == "left" else 0
            ids[row, first : first + len(tokens)] = torch.tensor(tokens)
            mask[row, first : first + len(tokens)] = 1
        masking: dict[str, Tensor] = {}
        if self.padding == "left" and not bool(mask.all()):
            positions = (mask.cumsum(-1) - 1).clamp_min(0)
            masking = {"attention_mask": mask, "position_ids": positions}
        masking = {name: tensor.to(self._device) for name, tensor in masking.items()}
        logits = self.model(input_ids=ids.to(self._device), use_cache=False, **masking).logits
        ends = [longest if self.padding == "left" else len(tokens) for tokens in inputs]
        return [logits[r, e - n : e] for r, e, n in zip(range(len(ids)), ends, counts, strict=True)]

    @torch.inference_mode()
    def _from_cache(self, inputs: list[tuple[int, ...]], counts: list[int]) -> list[Tensor]:
        """Run the context of all inputs once, without its last token, then the rest of each."""
        shared = len(inputs[0]) - counts[0]
        if shared == 0:
            return self._without_cache(inputs, counts)
        start = torch.tensor([inputs[0][:shared]], device=self._device)
        past = self.model(input_ids=start, use_cache=True, **self._one_logit).past_key_values
        past.batch_repeat_interleave(len(inputs))
        remaining = torch.zeros(len(inputs), max(counts), dtype=torch.long)
        for row, tokens in enumerate(inputs):
            remaining[row, : len(tokens) - shared] = torch.tensor(tokens[shared:])
        logits = self.model(
            input_ids=remaining.to(self._device), past_key_values=past, use_cache=True
        ).logits
        return [logits[row, :n] for row, n in enumerate(counts)]

    def _store(self, batch: list[list[Piece]], scored: Sequence[Tensor]) -> None:
        values: dict[str, Value] = {}
        for group, logits in zip(batch, scored, strict=True):
            for piece in group:
                rows = logits[len(logits) - len(piece.targets) :].float()
                targets = torch.tensor(piece.targets, device=rows.device)
                chosen = rows.log_softmax(-1).gather(-1, targets[:, None])
                greedy = bool((rows.argmax(-1) == targets).all())
                values[piece.key] = (float(chosen.sum()), greedy)
        self.cache.add(values)


def positions_of(model: Any) -> int:
    """The number of positions of a model, from the same config keys as in the harness' backend."""
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if isinstance(value := getattr(model.config, name, None), int):
            return value
    raise ConfigError("the config of this model does not state its number of positions.")


def _batch_size(value: int | str) -> int | str:
    if value == "auto":
        return value
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"batch size is {value!r}; it must be auto, or a number from 1.")
    return number
