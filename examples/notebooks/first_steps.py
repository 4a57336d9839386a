# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # First steps
#
# Train a tiny spiking language model on text that every Python brings along, look at its quality, and let it write.
# Everything runs on one core in about a minute.

# %%
import os
import tempfile

import spikeformers

STEPS = int(os.environ.get("NOTEBOOK_STEPS", "100"))
DATA = os.environ.get("NOTEBOOK_DATA", "builtin")
folder = tempfile.mkdtemp()

# %% [markdown]
# A preset names a model: `wd-spikingformer-tiny` is a causal model in which one key wins each query. Any field of its config
# and of the training can be changed in `settings`. A run folder is an ordinary Transformers model folder.

# %%
settings = {
    "tokenizer": "byte",
    "context": 64,
    "batch_size": 8,
    "steps": STEPS,
    "learning_rate": 3e-3,
}
run = spikeformers.pretrain(
    "wd-spikingformer-tiny", out=f"{folder}/run", data=DATA, settings=settings
)
quality = run.training.final_validation["bits_per_byte"]
print(f"{run.model.num_parameters():,} parameters, {run.training.tokens_seen:,} tokens")
print(f"{quality:.2f} bits per byte; 8 would be all bytes equally likely")

# %% [markdown]
# The model loads with Transformers, and writes text. After so few steps it has learned which letters are frequent, not more.

# %%
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(f"{folder}/run")
tokenizer = AutoTokenizer.from_pretrained(f"{folder}/run")
text = spikeformers.generate_text(
    model, "The ", tokenizer=tokenizer, max_new_tokens=60, seed=0
).text
print(text)

# %% [markdown]
# What does it cost? Events are counted in a real run, and priced by published energies per operation: an estimate, with the
# density of spikes beside it. The dense twin has the same shape, without spikes.

# %%
energy = spikeformers.measure_energy(f"{folder}/run", DATA, tokens=256)
spiking, dense = energy.paper, energy.paper_control
print(f"density {spiking.density:.3f}: that share of the neurons fires")
print(
    f"{spiking.picojoules_per_token / 1e3:,.0f} nJ per token, dense twin {dense.picojoules_per_token / 1e3:,.0f} (estimated)"
)

# %%
assert 0 < spiking.density < 1
assert 0 < quality < 16
