"""The dense twin: a Transformers model of the same shape, the control of every claim.

                 positions "learned"     positions "rotary"
    causal       GPT-2                   GPT-NeoX, sequential residual
    masked       BERT                    RoFormer
    images       ViT                     -

Softmax attention, GELU, pre-norm (GPT) or post-norm (BERT); vocabulary, width, depth, heads, MLP
width, positions, dropout, initialisation and tying are the spiking model's. A spiking model that
knows relative positions is compared with a dense one that knows them too (rotary, Su et al.
2021, https://arxiv.org/abs/2104.09864), so that the gap between the two is what spiking costs.
Differs: the twins lack the spiking model's extra norms, and BERT's and RoFormer's heads have a
dense layer of their own; ViT cuts its patches with one linear map where SPS has convolutions, and
reads a class token.
"""

from __future__ import annotations

from typing import Any, Literal

from transformers import (
    BertConfig,
    GPT2Config,
    GPTNeoXConfig,
    PreTrainedConfig,
    RoFormerConfig,
    ViTConfig,
)

from spikeformers.errors import ConfigError

TwinPositions = Literal["learned", "rotary"]


def control_of(
    config: PreTrainedConfig, positions: TwinPositions | None = None
) -> PreTrainedConfig:
    """Config of the dense twin of ``config``, which the config itself states (``dense_twin``).

    ``positions`` is "rotary" for a spiking model with a relative bias and "learned" for any other,
    unless given. The twin of a converted model is what it was converted from. Raises ConfigError
    for the config of a model that has none.
    """
    if getattr(config, "frames", False):
        raise ConfigError(
            "a ViT reads one image, and this model a frame of events per simulation step: it has "
            "no dense twin. Compare with a twin of images (frames=false)."
        )
    if not has_control(config):
        raise ConfigError(
            f"control_of() takes the config of a spiking model, not {type(config).__name__}."
        )
    twin: PreTrainedConfig = config.dense_twin(positions)
    return twin


def has_control(config: PreTrainedConfig) -> bool:
    """Whether a config states a dense twin; there is none for recordings of events."""
    return hasattr(config, "dense_twin") and not getattr(config, "frames", False)


def vision_twin(config: Any, positions: TwinPositions | None) -> ViTConfig:
    """A ViT of the shape of a spiking vision transformer."""
    if positions == "rotary":
        raise ConfigError("the dense twin of a vision model, ViT, has learned positions.")
    return ViTConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_channels=config.num_channels,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        initializer_range=config.initializer_range,
        id2label=config.id2label,
        label2id=config.label2id,
    )


def text_twin(config: Any, positions: TwinPositions | None) -> PreTrainedConfig:
    """A dense language model of the shape of a spiking one, masked if that is not causal."""
    if positions is None:
        positions = "rotary" if config.position in ("relative", "both") else "learned"
    if positions not in ("learned", "rotary"):
        raise ConfigError(f"positions of a dense twin are learned or rotary, not {positions!r}.")
    shape: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tie_word_embeddings,
        "pad_token_id": config.pad_token_id,
    }
    if not config.causal:
        encoder = BertConfig if positions == "learned" else RoFormerConfig
        return encoder(
            **shape,
            intermediate_size=config.intermediate_size,
            type_vocab_size=1,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
        )
    shape |= {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    if positions == "learned":
        return GPT2Config(
            **shape,
            n_inner=config.intermediate_size,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
        )
    return GPTNeoXConfig(
        **shape,
        intermediate_size=config.intermediate_size,
        hidden_dropout=config.dropout,
        attention_dropout=config.dropout,
        use_parallel_residual=False,
        rotary_pct=1.0,
    )
