"""The backbone and language-model head that spiking language models share.

    embedding (+ positions), repeated S times -> blocks -> mean over S -> norm -> SN -> head

The configs are in ``_config``, the firing-rate term in ``_rates``, the WTA spiking transformer's
block in ``_block``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from spikeformers.attention import Pairs, cores_of
from spikeformers.errors import ConfigError
from spikeformers.kernels.triton import runs
from spikeformers.layers import RelativeBias, SpikeLinear, make_norm
from spikeformers.models._adapters import refuse_tied_adapter
from spikeformers.models._block import SpikingBlock, make_head_neuron
from spikeformers.models._cache import admit, keep_last_spikes, keep_states
from spikeformers.models._config import SpikingConfig
from spikeformers.models._expansion import expanded
from spikeformers.models._generation import BY_OWNER, CachedGenerationMixin
from spikeformers.models._loss import share_of
from spikeformers.models._masks import Sight
from spikeformers.models._rates import Rates, rate_loss, total, track_rates
from spikeformers.neurons import Neuron, mark_padding, neurons_of


@dataclass
class SpikingformerOutput(ModelOutput):
    """Output of the backbone; ``last_hidden_state`` ``[B, T, D]``, averaged over S."""

    last_hidden_state: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SpikingLMOutput(ModelOutput):
    """Output of a language model; ``loss`` is ``lm_loss + rate_loss``.

    With ``num_items_in_batch`` all three are what this forward pass adds to those of its batch.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    lm_loss: Tensor | None = None
    rate_loss: Tensor | None = None


class SpikingformerPreTrainedModel(PreTrainedModel):
    """Weight initialisation and loading for every head."""

    config: SpikingConfig
    config_class = SpikingConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["SpikingBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            std = self.config.initializer_range
            if getattr(module, "ends_residual", False):  # GPT-2's rule
                std /= math.sqrt(2 * self.config.num_hidden_layers)
            nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            nn.init.constant_(module.weight, getattr(module, "initial_gain", 1.0))
            if isinstance(module, nn.LayerNorm):
                nn.init.zeros_(module.bias)
        elif (reset := getattr(module, "reset_parameters", None)) is not None:
            reset()


class SpikingformerModel(SpikingformerPreTrainedModel):
    """Embedding, blocks, mean over simulation steps, final norm.

    A subclass's own methods create its blocks and the start of its stream.
    """

    @staticmethod
    def make_block(config: Any, layer: int) -> nn.Module:
        """Block ``layer``: ``(x, allowed, bias, cache, want_weights) -> (x, weights)``."""
        return SpikingBlock(config, layer)

    @staticmethod
    def make_encoder(config: Any) -> nn.Module:
        """From the repeated embedding ``[S, B, T, D]`` to the stream that enters the blocks."""
        return nn.Identity()

    @property
    def keeps_states(self) -> bool:
        """Whether the cache is one matrix per head instead of a row per token."""
        return any(core.keeps_state for core in cores_of(self.layers))

    @property
    def shifts(self) -> bool:
        """Whether layers read spikes of the token before."""
        return any(getattr(m, "reads_token_before", False) for m in self.layers.modules())

    def relative_bias(self, layer: int) -> Tensor | None:
        """The learned bias of block ``layer`` by head and distance; None without one."""
        if not self.relative:
            return None
        bias: Tensor = self.relative[layer].bias  # type: ignore[assignment]
        return bias

    @property
    def stream(self) -> tuple[str, str]:
        """Spike type of the stream between blocks, and its values."""
        return "real", "real numbers"

    def __init__(self, config: SpikingConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.position in ("learned", "both")
        self.embed_positions = (
            nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        )
        relative = config.position in ("relative", "both")
        self.relative = nn.ModuleList(
            RelativeBias(
                config.num_attention_heads,
                config.max_position_embeddings,
                config.causal,
                config.relative_slope,
            )
            for _ in range(config.num_hidden_layers if relative else 0)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = self.make_encoder(config)
        self.layers = nn.ModuleList(
            self.make_block(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = make_norm(config.norm, config.hidden_size, config.norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = value  # type: ignore[assignment]

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> SpikingformerOutput:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        tokens = x.shape[1]
        cache, past = self._cache(past_key_values, use_cache, tokens, x.device)
        sight = Sight(attention_mask, past, tokens, self.config.causal, x.device)
        more: dict[str, Tensor | None] = {"present": sight.before()} if self.shifts else {}
        limit = self.config.max_position_embeddings
        if past + tokens > limit and self.embed_positions is not None:
            raise ConfigError(
                f"{past + tokens} tokens do not fit the {limit} positions this model has; "
                "shorten the input or raise max_position_embeddings and retrain."
            )
        if self.embed_positions is not None:
            x = x + self.embed_positions(
                sight.positions() if position_ids is None else position_ids
            )
        present = sight.present()
        if present is not None:
            x = x * present.unsqueeze(-1).to(x.dtype)
        if self.training:
            more["counted"] = present
            mark_padding(self.encoder, present)
        allowed = self._allowed(sight, cache, bool(output_attentions))

        x = self.dropout(x).unsqueeze(0)
        if self.config.steps > 1:
            x = x.expand(self.config.steps, -1, -1, -1)
        x = self.encoder(x)
        hidden, maps = [], []
        for layer, block in enumerate(self.layers):
            if output_hidden_states:
                hidden.append(x.mean(0))
            bias = self._bias(layer, allowed, tokens, past + tokens, x.device)
            x, weights = block(x, allowed, bias, cache, bool(output_attentions), **more)
            if weights is not None:
                maps.append(weights.mean(0))
        last = self.norm(x.mean(0))
        if output_hidden_states:
            hidden.append(last)
        return SpikingformerOutput(
            last_hidden_state=last,
            past_key_values=cache,
            hidden_states=tuple(hidden) if output_hidden_states else None,
            attentions=tuple(maps) if output_attentions else None,
        )

    def _allowed(self, sight: Sight, cache: Cache | None, weights: bool) -> Tensor | Pairs:
        """The keys that queries may see, without a matrix if no core needs one."""
        wanted = weights or (self.keeps_states and cache is not None)
        if not wanted and runs(sight.device.type) and self._streams(sight.device.type):
            pairs = sight.streamed()
            if pairs is not None:
                return pairs
        return sight.allowed_among_new() if self.keeps_states else sight.allowed()

    def _streams(self, device: str) -> bool:
        expanded = any(neuron.expanded for neuron in neurons_of(self.layers).values())
        return not expanded and all(core.streams(device) for core in cores_of(self.layers))

    def _bias(
        self, layer: int, allowed: Tensor | Pairs, queries: int, keys: int, device: torch.device
    ) -> Tensor | None:
        """The relative bias of block ``layer`` in the form that fits ``allowed``."""
        if not self.relative:
            return None
        bias: Any = self.relative[layer]
        return (bias.line if isinstance(allowed, Pairs) else bias)(queries, keys, device)

    def _cache(
        self, given: Cache | None, use_cache: bool | None, tokens: int, device: torch.device
    ) -> tuple[Cache | None, int]:
        """The cache to read and fill, ready for ``tokens`` more, and the number of tokens in it.

        As in Transformers, a given one is used whatever the value of ``use_cache``.
        """
        if self.training or not self.config.causal:
            if given is not None and admit(given, len(self.layers), 0, device) > 0:
                raise ConfigError(
                    "past_key_values holds tokens, but a model that is training, or that reads a "
                    "text in both directions, cannot continue from a cache; call eval(), or give "
                    "the whole text without a cache."
                )
            return None, 0
        if given is None:
            if not (self.config.use_cache if use_cache is None else use_cache):
                return None, 0
            given = DynamicCache(config=self.config)
        past = admit(given, len(self.layers), tokens, device)
        if self.keeps_states:
            keep_states(given, len(self.layers))
        if self.shifts:
            keep_last_spikes(given, len(self.layers), past)
        return given, past


class SpikingLM(SpikingformerPreTrainedModel):
    """Backbone, neuron, tied head; subclasses name the backbone and call ``_finish``."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}
    chains: ClassVar[tuple[tuple[str, ...], ...]] = (("head_neuron", "lm_head"),)
    """Modules that data pass through one after another, by name."""

    def __init__(self, config: SpikingConfig, model: SpikingformerModel, bias: bool) -> None:
        super().__init__(config)
        self.model = model
        self.head_neuron = self.make_head_neuron(config)
        head = SpikeLinear if config.spiking_head else nn.Linear
        self.lm_head = head(config.hidden_size, config.vocab_size, bias=bias)
        self.post_init()

    @staticmethod
    def make_head_neuron(config: Any) -> Neuron | None:
        """The neuron in front of the head, or None."""
        return make_head_neuron(config)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def maps(self) -> list[tuple[nn.Module, Neuron]]:
        """The head with the neuron whose spikes it reads; none without such a neuron."""
        return [] if self.head_neuron is None else [(self.lm_head, self.head_neuron)]

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Set the head; a plain linear one (from a resize) is converted to the old head's class."""
        kind = type(self.lm_head)
        if type(value) is nn.Linear and issubclass(kind, SpikeLinear):
            value = kind.of(value)
        self.lm_head = value  # type: ignore[assignment]

    def _counted(self, attention_mask: Tensor | None, hidden: Tensor) -> Tensor | None:
        """Which tokens of ``hidden`` ``[B, T, D]`` the firing-rate term counts; None: all."""
        if attention_mask is None or not self.training:
            return None
        tokens = hidden.shape[1]
        past = attention_mask.shape[-1] - tokens
        return Sight(attention_mask, past, tokens, self.config.causal, hidden.device).present()

    def _finish(
        self,
        out: SpikingformerOutput,
        hidden: Tensor,
        labels: Tensor | None,
        rates: Rates | None,
        counted: Tensor | None = None,
        **kwargs: Any,
    ) -> SpikingLMOutput:
        """Logits ``[B, T, V]`` of ``hidden`` ``[B, T, D]``, and the loss if there are labels.

        ``counted`` ``[B, T]`` masks padding.
        """
        refuse_tied_adapter(self)
        if self.head_neuron is not None:
            self.head_neuron.present = counted
        logits = self.logits_of(hidden)
        lm_loss = None
        if labels is not None:
            lm_loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        share = share_of(labels, shifted=self.config.causal, **kwargs)
        rate = rate_loss(self.config, rates, share)
        return SpikingLMOutput(
            loss=total(lm_loss, rate),
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            lm_loss=lm_loss,
            rate_loss=rate,
        )

    def logits_of(self, hidden: Tensor) -> Tensor:
        """Head on the normed mean over steps, ``[B, T, D] -> [B, T, V]``."""
        if self.head_neuron is None:
            return self.lm_head(hidden)
        return self.lm_head(self.head_neuron(hidden.unsqueeze(0))).squeeze(0)

    def expand_to_binary(self) -> SpikingLM:
        """Return a copy that computes the same logits from zeros and ones; see ``expanded``."""
        return expanded(self)


class SpikingCausalLM(SpikingLM, CachedGenerationMixin):
    """Next-token prediction; ``generate`` uses a key-value cache of spikes."""

    def __init__(self, config: SpikingConfig, model: SpikingformerModel, bias: bool) -> None:
        super().__init__(config, model, bias)
        self.keep_head_and_loss(self.model)

    @property
    def can_step_back(self) -> bool:
        """A state cannot be restored to an earlier token."""
        return not (self.model.keeps_states or self.model.shifts)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> SpikingLMOutput:
        """Logits ``[B, T, V]``; ``labels`` ``[B, T]`` are shifted inside, -100 is ignored."""
        rates = track_rates(self)
        out = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            output_attentions,
            output_hidden_states,
            **{BY_OWNER: True, "return_dict": True},
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = out.last_hidden_state
        counted = self._counted(attention_mask, hidden)
        counted = None if counted is None else counted[:, keep]
        return self._finish(out, hidden[:, keep], labels, rates, counted, **kwargs)
