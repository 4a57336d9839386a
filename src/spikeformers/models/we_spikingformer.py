"""WE-Spikingformer: a masked language model of winner-take-all spiking attention (WSSA).

    embedding + positions, repeated S times -> blocks -> mean over S -> norm -> (SN) -> head

Winner-Take-All Spiking Transformer for Language Modeling, https://arxiv.org/abs/2604.11321.
Unspecified by the paper: the shape (BERT-base's is inferred), the head (here a tied linear map
with a bias) and how a sentence is pooled (``pooling``).
"""

from __future__ import annotations

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from spikeformers.errors import ConfigError
from spikeformers.models._config import SpikingformerConfig
from spikeformers.models._loss import share_of
from spikeformers.models._masks import Sight
from spikeformers.models._rates import rate_loss, total, track_rates
from spikeformers.models._spikingformer import (
    SpikingformerModel,
    SpikingformerPreTrainedModel,
    SpikingLM,
    SpikingLMOutput,
)
from spikeformers.models.wd_spikingformer import PRESETS as CAUSAL_PRESETS

PRESETS: dict[str, dict[str, Any]] = {
    name.replace("wd-", "we-"): {
        **sizes,
        "max_position_embeddings": min(sizes["max_position_embeddings"], 512),
    }
    for name, sizes in CAUSAL_PRESETS.items()
}


@strict(accept_kwargs=True)
class WESpikingformerConfig(SpikingformerConfig):
    """Configuration of WE-Spikingformer; fields and defaults in ``SpikingformerConfig``."""

    model_type = "we_spikingformer"
    causal: ClassVar[bool] = False
    attentions_of_others: ClassVar[tuple[str, ...]] = ("cwssa",)

    attention: str = "wssa"
    max_position_embeddings: int = 512
    use_cache: bool = False
    pooling: str = "mean"
    """The input of a classifier: "mean" over tokens that are not padding, or the "first" token."""

    def validate_architecture(self) -> None:
        super().validate_architecture()
        if self.pooling not in ("mean", "first"):
            raise ConfigError(f"pooling={self.pooling!r} is unknown; one of mean, first.")


class WESpikingformerModel(SpikingformerModel):
    """Backbone without a head."""

    config_class = WESpikingformerConfig


class WESpikingformerForMaskedLM(SpikingLM):
    """Prediction of masked tokens."""

    config_class = WESpikingformerConfig

    def __init__(self, config: WESpikingformerConfig) -> None:
        super().__init__(config, WESpikingformerModel(config), bias=True)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> SpikingLMOutput:
        """Logits ``[B, T, V]``; ``labels`` ``[B, T]`` are -100 at tokens that are not masked."""
        rates = track_rates(self)
        out = self.model(
            input_ids,
            attention_mask,
            position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden = out.last_hidden_state
        counted = self._counted(attention_mask, hidden)
        return self._finish(out, hidden, labels, rates, counted, **kwargs)


class WESpikingformerForSequenceClassification(SpikingformerPreTrainedModel):
    """One label (or one regressed value) a sequence."""

    config_class = WESpikingformerConfig

    def __init__(self, config: WESpikingformerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = WESpikingformerModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits ``[B, num_labels]``."""
        rates = track_rates(self)
        out = self.model(
            input_ids,
            attention_mask,
            position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden = out.last_hidden_state
        present = Sight(attention_mask, 0, hidden.shape[1], False, hidden.device).present()
        if self.config.pooling == "first":
            pooled = hidden[:, 0]
        elif present is None:
            pooled = hidden.mean(1)
        else:
            keep = present.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * keep).sum(1) / keep.sum(1).clamp_min(1)
        logits = self.classifier(self.dropout(pooled))
        loss, share = None, share_of(labels, **kwargs)
        rate = rate_loss(self.config, rates, share)
        if labels is not None:
            loss = self.loss_function(
                labels=labels, pooled_logits=logits, config=self.config, **kwargs
            )
            # Of the library's losses only cross-entropy divides a sum by the targets of all parts.
            if share is not None and self.config.problem_type != "single_label_classification":
                loss = loss * share
            loss = total(loss, rate)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions
        )
