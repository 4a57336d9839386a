"""What cpp/module*.cpp offer."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_LEVELS: int

CostTuple = tuple[int, int, int]
"""Neurons, events, bytes of weights."""
DetailsTuple = tuple[int, CostTuple, list[CostTuple], CostTuple, list[list[list[int]] | None]]
"""Tokens read, cost of all of them, then of the last one: by layer, outside of layers, winners by
layer and head."""

def paths() -> list[tuple[str, bool, str]]: ...
def processors() -> int: ...
def product(
    counts: NDArray[np.int8],
    matrix: NDArray[Any],
    scale: NDArray[np.float32] | None,
    bias: NDArray[np.float32] | None,
    unit: float,
    path: str,
    threads: int,
    repeats: int,
) -> tuple[NDArray[np.float32], float]: ...
def attend(
    q: NDArray[np.int8],
    k: NDArray[np.int8],
    v: NDArray[np.int8],
    type: str,
    levels: int,
    unit: float,
    heads: int,
    rule: str,
    winners: int,
    weight: float,
    digits: int,
    scale: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    signed: bool,
    path: str,
    threads: int,
) -> tuple[NDArray[np.float32], float]: ...
def norm(
    x: NDArray[np.float32],
    kind: str,
    gain: NDArray[np.float32] | None,
    shift: NDArray[np.float32] | None,
    eps: float,
    path: str,
) -> NDArray[np.float32]: ...
def fire(
    current: NDArray[np.float32],
    type: str,
    levels: int,
    unit: float,
    decay: float,
    threshold: float,
    ratio: float,
    reset: str,
    step: float,
    dead_zone: float,
    gain: float,
    signed: bool,
    path: str,
) -> NDArray[np.int8]: ...
def edges(
    q: NDArray[np.int8],
    k: NDArray[np.int8],
    v: NDArray[np.int8],
    steps: int,
    heads: int,
    decay: float,
    scale: NDArray[np.float32],
    threshold: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    path: str,
    threads: int,
) -> NDArray[np.float32]: ...
def pair(
    x: NDArray[np.float32],
    value: NDArray[np.float32],
    largest: int,
    sign: bool,
    counts: bool,
    path: str,
) -> NDArray[np.float32]: ...
def encode(
    x: NDArray[np.float32],
    steps: int,
    reach: float,
    dead_zone: float,
    power_of_two: bool,
    path: str,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...
def count_product(
    x: NDArray[np.float32],
    matrix: NDArray[Any],
    scale: NDArray[np.float32] | None,
    group_scale: NDArray[np.uint16] | None,
    minimum: NDArray[np.uint16] | None,
    bias: NDArray[np.float32] | None,
    steps: int,
    reach: float,
    dead_zone: float,
    power_of_two: bool,
    path: str,
    threads: int,
    repeats: int,
) -> tuple[NDArray[np.float32], float]: ...
def activate(x: NDArray[np.float32], kind: str, path: str) -> NDArray[np.float32]: ...
def soft_cap(x: NDArray[np.float32], cap: float, path: str) -> NDArray[np.float32]: ...
def mix(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    heads: int,
    kv_heads: int,
    rule: str,
    winners: int,
    weight: float,
    digits: int,
    scale: NDArray[np.float32],
    largest: int,
    half: bool,
    window: int,
    path: str,
    threads: int,
) -> NDArray[np.float32]: ...

class Sequence:
    @property
    def tokens(self) -> int: ...
    @property
    def bytes(self) -> int: ...

class Program:
    def __init__(self, path: str, threads: int, steps: int, vocabulary: int) -> None: ...
    @property
    def path(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def positions(self) -> int: ...
    @property
    def finished(self) -> bool: ...
    def real(self, width: int) -> int: ...
    def spikes(
        self,
        width: int,
        type: str,
        levels: int,
        unit: float,
        decay: float,
        threshold: float,
        ratio: float,
        reset: str,
        step: float = 1.0,
        dead_zone: float = 0.0,
        gain: float = 1.0,
        signed: bool = False,
    ) -> int: ...
    def counts(self, width: int) -> int: ...
    def embed(
        self,
        out: int,
        table: NDArray[Any],
        scale: NDArray[np.float32] | None,
        by_column: bool,
        positions: NDArray[np.float32] | None,
    ) -> None: ...
    def select(self, input: int, out: int) -> None: ...
    def norm(
        self,
        input: int,
        out: int,
        offset: int,
        kind: str,
        gain: NDArray[np.float32] | None,
        shift: NDArray[np.float32] | None,
        eps: float,
    ) -> None: ...
    def fire(
        self,
        input: int,
        out: int,
        offset: int,
        kind: str,
        gain: NDArray[np.float32] | None,
        shift: NDArray[np.float32] | None,
        eps: float,
    ) -> None: ...
    def linear(
        self,
        input: int,
        out: int,
        weights: NDArray[Any],
        scale: NDArray[np.float32] | None,
        group_scale: NDArray[np.uint16] | None,
        minimum: NDArray[np.uint16] | None,
        bias: NDArray[np.float32] | None,
    ) -> None: ...
    def attend(
        self,
        query: int,
        key: int,
        value: int,
        out: int,
        heads: int,
        rule: str,
        winners: int,
        weight: float,
        scale: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        digits: int = 1,
    ) -> None: ...
    def add(self, input: int, to: int) -> None: ...
    def shift(self, to: int, moved: int) -> None: ...
    def join(self, input: int, to: int, how: str) -> None: ...
    def recount(self, input: int, out: int) -> None: ...
    def rate(
        self,
        input: int,
        out: int,
        steps: int,
        type: str,
        levels: int,
        unit: float,
        decay: float,
        threshold: float,
        ratio: float,
        reset: str,
        step: float = 1.0,
        dead_zone: float = 0.0,
        gain: float = 1.0,
        signed: bool = False,
    ) -> None: ...
    def edges(
        self,
        query: int,
        key: int,
        value: int,
        out: int,
        heads: int,
        decay: float,
        scale: NDArray[np.float32],
        threshold: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
    ) -> None: ...
    def pair(
        self,
        input: int,
        out: int,
        offset: int,
        spike: NDArray[np.float32],
        largest: int,
        sign: bool,
        counts: bool,
    ) -> None: ...
    def activate(self, to: int, kind: str) -> None: ...
    def soft_cap(self, to: int, cap: float) -> None: ...
    def multiply(self, input: int, to: int) -> None: ...
    def scale(self, to: int, scale: NDArray[np.float32]) -> None: ...
    def rotate(
        self,
        to: int,
        offset: int,
        heads: int,
        width: int,
        frequency: NDArray[np.float32],
        factor: float,
    ) -> None: ...
    def group_norm(self, input: int, out: int, gain: NDArray[np.float32], eps: float) -> None: ...
    def encode(
        self,
        input: int,
        out: int,
        offset: int,
        kind: str,
        gain: NDArray[np.float32] | None,
        shift: NDArray[np.float32] | None,
        eps: float,
        steps: int,
        reach: float,
        dead_zone: float,
        power_of_two: bool,
    ) -> None: ...
    def mix(
        self,
        query: int,
        key: int,
        value: int,
        out: int,
        heads: int,
        kv_heads: int,
        rule: str,
        winners: int,
        weight: float,
        scale: NDArray[np.float32],
        largest: int,
        half: bool,
        window: int = 0,
        digits: int = 1,
    ) -> None: ...
    def finish(self, logits: int) -> None: ...
    def layer(self, number: int) -> None: ...
    def sequence(self) -> Sequence: ...
    def fork(self, sequence: Sequence) -> Sequence: ...
    def keep_details(self, sequence: Sequence) -> None: ...
    def details(self, sequence: Sequence) -> DetailsTuple: ...
    def forward(
        self, sequences: list[Sequence], tokens: list[int], wanted: list[int]
    ) -> NDArray[np.float32]: ...
    def advance(self, sequence: Sequence, token: int) -> int: ...
    def time(self, timed: bool) -> None: ...
    def seconds(self) -> dict[str, float]: ...
    def values(self, buffer: int) -> NDArray[Any]: ...
    def counters(self) -> dict[str, int]: ...
