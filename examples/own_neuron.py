"""A neuron of your own in a language model: register it, train, count its energy, audit it.

The neuron is binary, and its leak is learned; training, energy and audit need only its equations.
Printed are the quality on held-out text, the learned leaks, how often neurons fire, the energy
beside the dense twin's, and the arithmetic that the matrix products of the blocks need:

    quality   4.81 bits per byte
    leaks     0.475 to 0.500 in 25 layers of neurons
    density   0.095 of the neurons fire
    energy    139 nJ/token, dense twin 3923 (estimated)
    products  32 in the blocks: binary
"""

import argparse
import tempfile

import torch

import spikeformers
from spikeformers.neurons import Neuron


class LearnedLeak(Neuron):
    """S[t] = [U[t] >= 1];  H[t] = sigmoid(w) (U[t] - S[t]), one learned w per layer."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(1))

    def fire(self, u):
        soft = torch.sigmoid(4 * (u - 1))  # contributes the surrogate's gradient, not a value
        return (u >= 1).to(u.dtype) + soft - soft.detach()

    def keep(self, u, spikes):
        return torch.sigmoid(self.w) * (u - spikes)


parser = argparse.ArgumentParser()
sizes = {"steps": 60, "batch-size": 8, "context": 64, "tokens": 512}
for name, default in {"data": "builtin", **sizes}.items():
    parser.add_argument(f"--{name}", type=type(default), default=default)
args = parser.parse_args()

spikeformers.register_neuron("learned-leak", LearnedLeak)
settings = {"tokenizer": "byte", "neuron": "learned-leak", "model.steps": 2}  # T = 2
settings |= {"learning_rate": 3e-3, "eval_batches": 4, "steps": args.steps}
settings |= {"batch_size": args.batch_size, "context": args.context}
with tempfile.TemporaryDirectory() as out:
    run = spikeformers.pretrain("wd-spikingformer-tiny", out=out, data=args.data, settings=settings)
    energy = spikeformers.measure_energy(out, args.data, tokens=args.tokens)
    report = spikeformers.audit_folder(out, args.data, tokens=args.tokens).report
leaks = [part.w.sigmoid().item() for part in run.model.modules() if isinstance(part, LearnedLeak)]
spiking, dense = (each.picojoules_per_token / 1e3 for each in (energy.paper, energy.paper_control))
rows = report.products().values()
print(f"quality   {run.training.final_validation['bits_per_byte']:.2f} bits per byte")
print(f"leaks     {min(leaks):.3f} to {max(leaks):.3f} in {len(leaks)} layers of neurons")
print(f"density   {energy.paper.density:.3f} of the neurons fire")
print(f"energy    {spiking:.0f} nJ/token, dense twin {dense:.0f} (estimated)")
print(f"products  {len(rows)} in the blocks: {', '.join({row.verdict for row in rows})}")
