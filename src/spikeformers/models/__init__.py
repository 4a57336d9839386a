"""Models, one paper a file, registered with the Transformers Auto classes on import."""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)

from spikeformers.models._checks import config_errors
from spikeformers.models._config import SpikingConfig, SpikingformerConfig
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
from spikeformers.models.presets import (
    PRESETS,
    VISION_PRESETS,
    build_config,
    build_model,
    build_vision_config,
)
from spikeformers.models.reference import load_reference
from spikeformers.models.spiking_vit import (
    SpikingViTConfig,
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

for _config, _auto, _model in (
    (WDSpikingformerConfig, AutoModel, WDSpikingformerModel),
    (WDSpikingformerConfig, AutoModelForCausalLM, WDSpikingformerForCausalLM),
    (NeurTransformerConfig, AutoModelForCausalLM, NeurTransformerForCausalLM),
    (BiSpikCLMConfig, AutoModel, BiSpikCLMModel),
    (BiSpikCLMConfig, AutoModelForCausalLM, BiSpikCLMForCausalLM),
    (SpikingViTConfig, AutoModel, SpikingViTModel),
    (SpikingViTConfig, AutoModelForImageClassification, SpikingViTForImageClassification),
    (WESpikingformerConfig, AutoModel, WESpikingformerModel),
    (WESpikingformerConfig, AutoModelForMaskedLM, WESpikingformerForMaskedLM),
    (
        WESpikingformerConfig,
        AutoModelForSequenceClassification,
        WESpikingformerForSequenceClassification,
    ),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    _auto.register(_config, _model, exist_ok=True)

__all__ = [
    "PRESETS",
    "VISION_PRESETS",
    "BiSpikCLMConfig",
    "BiSpikCLMForCausalLM",
    "BiSpikCLMModel",
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
]
