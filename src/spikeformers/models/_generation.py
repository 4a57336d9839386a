"""``generate`` with caches that give the tokens of a dynamic one; others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig
from transformers.cache_utils import StaticCache
from transformers.generation import GenerationMixin
from transformers.generation.configuration_utils import GenerationMode

from spikeformers.errors import ConfigError
from spikeformers.models._cache import admit, refused

BY_OWNER = "called_by_owner"
"""The keyword with which a language model calls its own backbone."""


class CachedGenerationMixin(GenerationMixin):
    """A language model whose caches go through ``_cache.admit`` before anything is computed.

    Its head and loss are its own: a loss that another program computes from the backbone and the
    head's weights, as TRL's trainers do, has neither the head's neuron nor the firing-rate term.
    """

    def keep_head_and_loss(self, backbone: nn.Module) -> None:
        """Refuse to train ``backbone`` when it is called by anything but its language model."""
        backbone.register_forward_pre_hook(_refuse_stranger, with_kwargs=True)

    @property
    def can_step_back(self) -> bool:
        """Whether tokens can be taken out of its cache again, as assisted generation does."""
        return True

    @property
    def windows(self) -> Mapping[int, int]:
        """The sliding window of each layer whose attention has one."""
        return {}

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *rest: Any
    ) -> Any:
        mode = rest[0]
        given = model_kwargs.get("past_key_values")
        self._refuse(generation_config, given, mode)
        if given is not None:
            self._admit(given)
        cache_arguments = super()._prepare_cache_for_generation(
            generation_config, model_kwargs, *rest
        )
        cache = model_kwargs.get("past_key_values")
        if cache is not None and cache is not given:
            self._admit(cache)
        return cache_arguments

    def _admit(self, cache: Any) -> None:
        admit(cache, self.config.num_hidden_layers, 0, self.device, self.windows)

    def _refuse(self, settings: GenerationConfig, given: Any, mode: GenerationMode) -> None:
        """ConfigError for options from which Transformers would create an unfit cache, or none."""
        kind = settings.cache_implementation or ""
        name = f"cache_implementation={kind!r}"
        if kind == "quantized":
            raise refused(name, "it rounds keys and values, and with them whole spikes")
        if kind.startswith("offloaded") and self.device.type != "cuda":
            raise refused(
                name,
                f"it copies between a CUDA device and memory, and this model is on "
                f"{self.device.type!r}",
            )
        if mode != GenerationMode.ASSISTED_GENERATION and not settings.is_assistant:
            return
        if not self.can_step_back:
            raise refused(
                "the cache of this model",
                "assisted generation steps back, and attention_order='state' and token_shift keep "
                "a state, out of which no token can be taken again",
                "Generate without an assistant.",
            )
        if kind in ("static", "sliding_window", "hybrid") or isinstance(given, StaticCache):
            raise refused(
                name if given is None else type(given).__name__,
                "assisted generation of Transformers steps back in dynamic caches only",
                "Use DynamicCache(), the default.",
            )

    def _get_static_cache_init_shape(self) -> None:
        """Nothing is allocated ahead of time: the config does not have the width of a row."""

    def init_continuous_batching(self, *_: Any, **__: Any) -> Any:
        raise refused(
            "a paged cache",
            "continuous batching computes attention of its own, a softmax, in place of the model's",
            "Use generate() with a batch of prompts.",
        )


def _refuse_stranger(
    backbone: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    asked = named.pop(BY_OWNER, False)
    if not asked and backbone.training and torch.is_grad_enabled():
        raise ConfigError(
            "The backbone of a spiking language model was called on its own in training, so the "
            "loss would be without the neuron before the head and without the firing-rate term. "
            "Train with the loss of the whole model. In TRL: class Tuner(SFTTrainer): "
            "compute_loss = transformers.Trainer.compute_loss. A model class of your own passes "
            f"{BY_OWNER}=True to its backbone."
        )
    return args, named
