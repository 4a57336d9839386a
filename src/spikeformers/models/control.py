"""The dense twin: a Transformers model of the same shape, the control of every claim.

WD-Spikingformer's is GPT-2 (softmax attention, GELU, learned positions, pre-norm), WE's is BERT;
vocabulary, width, depth, heads, MLP width, positions, dropout and tying are the spiking model's.
Differs: the twins lack the spiking model's extra norms (under 2 % of the parameters at
``tiny``), and BERT's head has a dense layer of its own.
"""

from __future__ import annotations

from transformers import BertConfig, GPT2Config, PreTrainedConfig

from spikeformers.errors import ConfigError
from spikeformers.models._spikingformer import SpikingformerConfig


def control_of(config: PreTrainedConfig) -> PreTrainedConfig:
    """Config of the dense twin of ``config``; ConfigError for a model that is none of ours."""
    if not isinstance(config, SpikingformerConfig):
        raise ConfigError(
            f"control_of() takes the config of a spiking model, not {type(config).__name__}."
        )
    if config.causal:
        return GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.max_position_embeddings,
            n_embd=config.hidden_size,
            n_layer=config.num_hidden_layers,
            n_head=config.num_attention_heads,
            n_inner=config.intermediate_size,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            initializer_range=config.initializer_range,
            tie_word_embeddings=config.tie_word_embeddings,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )
    return BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        type_vocab_size=1,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        initializer_range=config.initializer_range,
        tie_word_embeddings=config.tie_word_embeddings,
        pad_token_id=config.pad_token_id,
    )
