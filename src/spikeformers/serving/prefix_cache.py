"""What was read of earlier prompts, so that a shared beginning is not read twice.

A tree of blocks of 64 tokens, which is a page of the engine's caches: a node holds the sequence of
the text up to its end, and shares the pages of the nodes above it. Its size is counted without
them. Beyond the bound, the leaf that was used longest ago is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spikeformers.engine import Engine
    from spikeformers.kernels._native import Sequence as NativeSequence

BLOCK = 64
"""Tokens of a page of the engine's caches (kPage)."""
OVERHEAD = 4096  # bytes of a node itself: its tokens, and the lists of pages

Block = tuple[int, ...]


@dataclass(eq=False)
class _Node:
    sequence: NativeSequence
    size: int
    above: _Node | None
    block: Block
    used: int = 0
    below: dict[Block, _Node] = field(default_factory=dict)


class PrefixCache:
    """Sequences by the tokens they have read, up to ``bound`` bytes. Used by one thread."""

    def __init__(self, engine: Engine, bound: int) -> None:
        self.bound, self.bytes = bound, 0
        self._engine = engine
        empty = engine.sequence()
        self._fixed = empty.bytes + OVERHEAD
        self._root = _Node(empty, 0, None, ())
        self._clock = 0

    def begin(self, tokens: Sequence[int]) -> NativeSequence:
        """A sequence that has read the longest known beginning of ``tokens``, but not all of them.

        It is empty if none is known; its ``tokens`` is the length.
        """
        node = self._root
        self._clock += 1
        for start in range(0, len(tokens) - BLOCK, BLOCK):
            below = node.below.get(tuple(tokens[start : start + BLOCK]))
            if below is None:
                break
            node = below
            node.used = self._clock
        return self._engine.fork(node.sequence)

    def keep(self, tokens: Sequence[int], sequence: NativeSequence) -> None:
        """Keep a sequence that has read ``tokens``, a whole number of blocks.

        Without the blocks before the last one, or if it is larger than the bound, it is not kept.
        """
        if not tokens or len(tokens) % BLOCK or self._fixed > self.bound:
            return
        node = self._root
        for start in range(0, len(tokens) - BLOCK, BLOCK):
            below = node.below.get(tuple(tokens[start : start + BLOCK]))
            if below is None:
                return
            node = below
        block = tuple(tokens[-BLOCK:])
        self._clock += 1
        if block in node.below:
            node.below[block].used = self._clock
            return
        own = self._engine.fork(sequence)
        size = own.bytes - node.sequence.bytes + self._fixed
        if size > self.bound:
            return
        node.below[block] = _Node(own, size, node, block, self._clock)
        self.bytes += size
        self._shrink()

    def _shrink(self) -> None:
        while self.bytes > self.bound:
            oldest = min(self._leaves(), key=lambda node: node.used)
            assert oldest.above is not None
            del oldest.above.below[oldest.block]
            self.bytes -= oldest.size

    def _leaves(self) -> list[_Node]:
        leaves, stack = [], [self._root]
        while stack:
            node = stack.pop()
            stack += node.below.values()
            if not node.below and node is not self._root:
                leaves.append(node)
        return leaves
