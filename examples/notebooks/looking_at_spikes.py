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
# # Looking at spikes
#
# Which neurons fire for which token, how often, and which token wins the attention of another. The model is a new one with
# random weights, so that nothing has to be trained; with your own, load its folder instead.

# %%
import matplotlib.pyplot as plt
import torch

import spikeformers
from spikeformers.neurons import observe

torch.manual_seed(0)
tokenizer = spikeformers.make_tokenizer("byte", None)
choices = {"num_hidden_layers": 2, "attention": "cwssa"}  # one winner
config = spikeformers.build_config("wd-spikingformer-tiny", len(tokenizer), choices)
model = spikeformers.build_model(config).eval()
ids = tokenizer("A neuron fires at its threshold.", return_tensors="pt").input_ids

# %% [markdown]
# `observe` calls a function with the name, the neuron and its spikes `[S, B, T, D]` at each neuron layer of a forward pass.

# %%
spikes = {}
with (
    torch.no_grad(),
    observe(model, lambda name, neuron, out: spikes.update({name: out / neuron.unit})),
):
    output = model(input_ids=ids, output_attentions=True)
for name, counts in list(spikes.items())[:6]:
    fired = (counts != 0).float().mean()
    print(f"{name:45} {fired:5.3f} of the neurons fire, at most {counts.abs().max():.0f} times")

# %% [markdown]
# A raster: each row a token, each column a neuron of the first MLP; darker is more spikes.

# %%
raster = spikes["model.layers.0.mlp.fire_hidden.neuron"][0, 0]
figure, axis = plt.subplots(figsize=(9, 3))
axis.imshow(raster, aspect="auto", cmap="Greys", interpolation="nearest")
axis.set_xlabel("neuron")
axis.set_ylabel("token")
plt.show()

# %% [markdown]
# This attention is winner-take-all: for each token (row) and head, one earlier token wins. The picture is one head's winners.

# %%
winners = output.attentions[0][0, 0]
figure, axis = plt.subplots(figsize=(4, 4))
axis.imshow(winners, cmap="Greys")
axis.set_xlabel("winner")
axis.set_ylabel("token")
plt.show()

# %%
assert all(0 <= float((counts != 0).float().mean()) <= 1 for counts in spikes.values())
assert torch.equal(winners.sum(-1), torch.ones(ids.shape[1]))
