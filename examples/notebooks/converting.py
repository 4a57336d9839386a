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
# # Converting a trained model
#
# A dense language model becomes a spiking one without training: real numbers turn into counts of spikes. Here the dense
# model is one that is trained in the first cell; `"smollm2-135m"` or the folder of a GPT-2, LLaMA or Qwen works the same way.

# %%
import os
import tempfile

import spikeformers

STEPS = int(os.environ.get("NOTEBOOK_STEPS", "100"))
DATA = os.environ.get("NOTEBOOK_DATA", "builtin")
folder = tempfile.mkdtemp()
settings = {
    "tokenizer": "byte",
    "context": 64,
    "batch_size": 8,
    "steps": STEPS,
    "learning_rate": 3e-3,
}
dense = spikeformers.pretrain(
    "wd-spikingformer-tiny", out=f"{folder}/dense", data=DATA, settings=settings, control=True
)
print(f"{dense.model.config.model_type}, {dense.model.num_parameters():,} parameters")

# %% [markdown]
# Thresholds per token need no text for calibration. `steps` is the number of levels of a count: more levels are closer to the
# original and cost more spikes.

# %%
perplexity = {}
for levels in (2, 4, 8):
    out = f"{folder}/spiking-{levels}"
    spikeformers.convert(
        f"{folder}/dense", out=out, settings={"threshold": "token", "steps": levels}
    )
    perplexity[levels] = spikeformers.evaluate_perplexity(out, DATA, tokens=512).as_dict()[
        "perplexity"
    ]
original = spikeformers.evaluate_perplexity(f"{folder}/dense", DATA, tokens=512).as_dict()[
    "perplexity"
]
print(f"original  perplexity {original:.2f}")
for levels, value in perplexity.items():
    print(f"T = {levels}     perplexity {value:.2f} ({value / original - 1:+.1%})")

# %% [markdown]
# The converted model is a model folder like any other; the report of the conversion is beside it (`report.html`). It agrees
# with the original on the most likely next token for most positions:

# %%
same = spikeformers.evaluate_agreement(f"{folder}/spiking-8", f"{folder}/dense", DATA, tokens=512)
print(f"{same.as_dict()['agreement']:.3f} of the tokens have the same most likely successor")

# %%
assert abs(perplexity[8] / original - 1) < 0.1
assert 0 < same.as_dict()["agreement"] <= 1
