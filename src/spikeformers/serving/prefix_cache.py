"""What was read of earlier prompts, so that a shared beginning is not read twice.

A tree of blocks of 64 tokens, which is a page of the engine's caches: a node holds the sequence of
the text up to its end, and shares the pages of the nodes above it. Its size is counted without
them: each block adds as many bytes as the first, whatever a sliding window forgets meanwhile,
because the nodes above still hold it. Beyond the bound, the leaf that was used longest ago is
dropped.
"""

from __future__ import annotations

from collections import OrderedDict
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
    below: dict[Block, _Node] = field(default_factory=dict)


class PrefixCache:
    """Sequences by the tokens they have read, up to ``bound`` bytes. Used by one thread."""

    def __init__(self, engine: Engine, bound: int) -> None:
        self.bound, self.bytes = bound, 0
        self._engine = engine
        empty = engine.sequence()
        self._fixed = empty.bytes + OVERHEAD
        self._pages = 0  # bytes of the pages of one block, known from the first
        self._root = _Node(empty, 0, None, ())
        # Longest unused first. What is used moves to the end, then what it continues: so the first
        # one is always a leaf.
        self._order: OrderedDict[_Node, None] = OrderedDict()

    def begin(self, tokens: Sequence[int]) -> NativeSequence:
        """A sequence that has read the longest known beginning of ``tokens``, but not all of them.

        It is empty if none is known; its ``tokens`` is the length.
        """
        node = self._root
        for start in range(0, len(tokens) - BLOCK, BLOCK):
            below = node.below.get(tuple(tokens[start : start + BLOCK]))
            if below is None:
                break
            node = below
        self._use(node)
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
        if block in node.below:
            self._use(node.below[block])
            return
        own = self._engine.fork(sequence)
        if node is self._root:
            self._pages = own.bytes - node.sequence.bytes
        size = self._pages + self._fixed
        if size > self.bound:
            return
        added = _Node(own, size, node, block)
        node.below[block] = added
        self._order[added] = None
        self._use(added)
        self.bytes += size
        while self.bytes > self.bound:
            oldest, _ = self._order.popitem(last=False)
            assert oldest.above is not None
            del oldest.above.below[oldest.block]
            self.bytes -= oldest.size

    def _use(self, node: _Node) -> None:
        while node.above is not None:
            self._order.move_to_end(node)
            node = node.above
