"""An attention of your own in a language model: register it, train, decode with a cache, audit it.

A query reads every key that shares enough of its spikes: binary weights, no softmax, no winner.
Printed are the quality on held-out text, whether a cache changes the tokens, and what is violated:

    quality       4.85 bits per byte
    with a cache  the same tokens
    softmax-free  0 violations
"""

import argparse
import tempfile

import torch

import spikeformers
from spikeformers.attention import Attention


class Agreement(Attention):
    """A = [q k^T >= least], with the gradient of a sigmoid."""

    weights_are_binary = True
    takes_bias = False  # so the model has learned positions

    def __init__(self, least):
        super().__init__()
        self.least = least

    @classmethod
    def from_config(cls, config):
        return cls(**config.attention_options)

    def weights(self, q, k, allowed, bias):
        scores = self.scores(q, k, bias)  # spikes that coincide, [S, B, H, T, J]
        soft = torch.sigmoid(scores - self.least)
        return ((scores >= self.least).to(q.dtype) + soft - soft.detach()) * allowed


parser = argparse.ArgumentParser()
sizes = {"steps": 60, "batch-size": 8, "context": 64, "least": 2}
for name, default in {"data": "builtin", **sizes}.items():
    parser.add_argument(f"--{name}", type=type(default), default=default)
args = parser.parse_args()

spikeformers.register_attention("agreement", Agreement)
settings = {"attention": "agreement", "attention_options": {"least": args.least}, "neuron": "lif"}
settings |= {"tokenizer": "byte", "learning_rate": 3e-3, "eval_batches": 4}
settings |= {"steps": args.steps, "batch_size": args.batch_size, "context": args.context}
with tempfile.TemporaryDirectory() as out:
    run = spikeformers.pretrain("wd-spikingformer-tiny", out=out, data=args.data, settings=settings)
model, ids = run.model.eval(), run.processor("The ", return_tensors="pt").input_ids
fixed = {"max_new_tokens": args.context - ids.shape[1], "do_sample": False}
same = torch.equal(model.generate(ids, **fixed), model.generate(ids, **fixed, use_cache=False))
report = spikeformers.audit(model, [ids])
print(f"quality       {run.training.final_validation['bits_per_byte']:.2f} bits per byte")
print(f"with a cache  {'the same' if same else 'other'} tokens")
for claim in ("softmax-free", "binary"):
    print(f"{claim:13} {len(report.failures(claim))} violations")
