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
# # Comparing fairly
#
# A spiking model's number means little alone. Its dense twin has the same width, depth and heads, sees the same tokens in the
# same order, and is trained by the same loop. This notebook trains both and puts them side by side.

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
runs = {
    name: spikeformers.pretrain(
        "wd-spikingformer-tiny",
        out=f"{folder}/{name}",
        data=DATA,
        settings=settings,
        control=control,
    )
    for name, control in (("spiking", False), ("dense", True))
}

# %% [markdown]
# Quality first: bits per byte of the same held-out text. A single seed says little; a difference within the spread of seeds
# is not a difference, and each model deserves a learning rate of its own before a conclusion.

# %%
bits = {name: run.training.final_validation["bits_per_byte"] for name, run in runs.items()}
for name, value in bits.items():
    print(f"{name:8} {value:.3f} bits per byte, {runs[name].model.num_parameters():,} parameters")

# %% [markdown]
# Then cost. The energies are estimates: counted events times published prices. `paper` is the sum that papers report, which
# leaves out memory; `full` has all operands and memory traffic, where the advantage is smaller.

# %%
energy = spikeformers.measure_energy(
    f"{folder}/spiking", DATA, control=f"{folder}/dense", tokens=256
)
spiking, dense = energy.paper, energy.paper_control
print(f"density of spikes {spiking.density:.3f}")
print(
    f"papers' sum: {spiking.picojoules_per_token / dense.picojoules_per_token:.3f} of the twin's energy"
)

# %% [markdown]
# And what kind of arithmetic was it really? The audit looks at the operands of every matrix product of a run.

# %%
report = spikeformers.audit_folder(f"{folder}/spiking", DATA, tokens=64).report
verdicts = {row.verdict for row in report.products().values()}
print(f"products in the blocks: {', '.join(sorted(verdicts))}")
print(f"violations of addition-only: {len(report.failures('addition-only'))}")

# %%
assert 0 < spiking.density < 1
assert report.failures("addition-only") == []
