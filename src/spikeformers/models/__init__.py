"""Models, one file per paper, registered with the Transformers Auto classes on import."""

from __future__ import annotations

from spikeformers.models._checks import config_errors
from spikeformers.models._config import SpikingConfig, SpikingformerConfig
from spikeformers.models._dead_zones import DEAD_ZONES
from spikeformers.models._rates import read_shares, share_read
from spikeformers.models._spiking_vit_config import SpikingViTConfig
from spikeformers.models._spikingformer import SpikingLMOutput
from spikeformers.models.bispikclm import (
    BiSpikCLMConfig,
    BiSpikCLMForCausalLM,
    BiSpikCLMModel,
)
from spikeformers.models.control import control_of
from spikeformers.models.loading import load_model, load_vision_model
from spikeformers.models.neurtransformer import (
    NeurTransformerConfig,
    NeurTransformerForCausalLM,
)
from spikeformers.models.presets import build_config, build_model, build_vision_config
from spikeformers.models.reference import load_reference
from spikeformers.models.registry import (
    MODELS,
    PRESETS,
    VISION_PRESETS,
    ModelEntry,
    register_model,
    task_of,
)
from spikeformers.models.spiking_vit import (
    SpikingViTForImageClassification,
    SpikingViTModel,
)
from spikeformers.models.wd_spikingformer import (
    WDSpikingformerConfig,
    WDSpikingformerForCausalLM,
    WDSpikingformerModel,
)
from spikeformers.models.we_spikingformer import (
    WESpikingformerConfig,
    WESpikingformerForMaskedLM,
    WESpikingformerForSequenceClassification,
    WESpikingformerModel,
)

__all__ = [
    "DEAD_ZONES",
    "MODELS",
    "PRESETS",
    "VISION_PRESETS",
    "BiSpikCLMConfig",
    "BiSpikCLMForCausalLM",
    "BiSpikCLMModel",
    "ModelEntry",
    "NeurTransformerConfig",
    "NeurTransformerForCausalLM",
    "SpikingConfig",
    "SpikingLMOutput",
    "SpikingViTConfig",
    "SpikingViTForImageClassification",
    "SpikingViTModel",
    "SpikingformerConfig",
    "WDSpikingformerConfig",
    "WDSpikingformerForCausalLM",
    "WDSpikingformerModel",
    "WESpikingformerConfig",
    "WESpikingformerForMaskedLM",
    "WESpikingformerForSequenceClassification",
    "WESpikingformerModel",
    "build_config",
    "build_model",
    "build_vision_config",
    "config_errors",
    "control_of",
    "load_model",
    "load_reference",
    "load_vision_model",
    "read_shares",
    "register_model",
    "share_read",
    "task_of",
]
