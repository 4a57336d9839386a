"""A dense GPT-2 of a model's shape in CTranslate2, weights in int8; they are random.

CTranslate2 has no call that appends a given token, so it decodes greedily and is paused after each
token until the next is requested. The tokens that it decodes cost as much as any others.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spikeformers.models import SpikingformerConfig


class CTranslate2:
    """CTranslate2's generator, one token at a time."""

    def __init__(self, config: SpikingformerConfig, folder: Path, threads: int) -> None:
        import ctranslate2

        write_gpt2(config, folder)
        self._generator = ctranslate2.Generator(
            str(folder),
            device="cpu",
            compute_type="int8",
            inter_threads=1,
            intra_threads=threads,
        )
        self._context = config.max_position_embeddings
        self._running: Any = None

    def close(self) -> None:
        """Stop the text that it is generating."""
        if self._running is not None:
            self._ended = True
            self._requested.release()
            self._running.result()
            self._running = None

    def begin(self, ids: Sequence[int]) -> None:
        self.close()
        self._requested, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._ended = False

        def after_token(_: Any) -> bool:
            self._done.release()
            self._requested.acquire()
            return self._ended

        [self._running] = self._generator.generate_batch(
            [[f"t{token}" for token in ids]],
            asynchronous=True,
            include_prompt_in_result=False,
            end_token=[],
            max_length=self._context - len(ids) + 1,
            callback=after_token,
        )
        self._done.acquire()

    def step(self, token: int) -> None:
        self._requested.release()
        self._done.acquire()


def write_gpt2(config: SpikingformerConfig, folder: Path) -> None:
    """A GPT-2 with random int8 weights and a vocabulary of numbered tokens."""
    from ctranslate2 import specs

    draw = np.random.default_rng(0)
    width, hidden = config.hidden_size, config.intermediate_size
    assert hidden is not None

    def real(*shape: int) -> Any:
        return draw.standard_normal(shape, np.float32) * np.float32(0.02)

    def norm(to: Any) -> None:
        to.gamma, to.beta = real(width), real(width)

    def linear(to: Any, rows: int, columns: int) -> None:
        to.weight, to.bias = real(rows, columns), real(rows)

    model = specs.TransformerDecoderModelSpec.from_config(
        config.num_hidden_layers,
        config.num_attention_heads,
        pre_norm=True,
        activation=specs.Activation.GELUTanh,
    )
    decoder = model.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = real(config.vocab_size, width)
    decoder.position_encodings.encodings = real(config.max_position_embeddings, width)
    decoder.projection.weight = decoder.embeddings.weight
    norm(decoder.layer_norm)
    for layer in decoder.layer:
        into, out_of = layer.self_attention.linear
        norm(layer.self_attention.layer_norm)
        linear(into, 3 * width, width)
        linear(out_of, width, width)
        norm(layer.ffn.layer_norm)
        linear(layer.ffn.linear_0, hidden, width)
        linear(layer.ffn.linear_1, width, hidden)
    model.register_vocabulary([f"t{number}" for number in range(config.vocab_size)])
    model.config.bos_token = model.config.eos_token = model.config.unk_token = "t0"
    model.validate()
    model.optimize("int8")
    model.save(str(folder))
