"""Energy and audit of a model folder in a script: what the verbs `energy` and `audit` compute.

Without `--model` it measures an untrained model, which is so small that it fits into on-chip memory
in int8 while its fp16 twin does not: the full estimate then says nothing about large models. The
exit code is 1 if one of the two claims about the arithmetic is not met.

    papers' sum    1545 nJ/token, dense twin 4073 (estimated)
    full estimate  0.027 of the twin's, int8 beside fp16
    density        0.631; the layers that fire most:
    0.715          integer  model.layers.1.attention.fire_query.neuron
    softmax-free   met
"""

import argparse
import sys
import tempfile

import torch

import spikeformers

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="", help="a model folder; a new model if left out")
parser.add_argument("--data", default="builtin", help="a text file, a folder, or builtin")
parser.add_argument("--tokens", type=int, default=1024, help="of held-out text")
parser.add_argument("--context", type=int, default=128, help="tokens that a decoded one follows")
args = parser.parse_args()
torch.manual_seed(0)


def new_model(folder):
    """The folder, with an untrained model and its tokenizer."""
    tokenizer = spikeformers.make_tokenizer("byte", spikeformers.load_corpus(args.data))
    shape = {"max_position_embeddings": args.context}
    config = spikeformers.build_config("wd-spikingformer-tiny", len(tokenizer), shape)
    spikeformers.build_model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


with tempfile.TemporaryDirectory() as folder:
    name, text = args.model or new_model(folder), {"data": args.data, "tokens": args.tokens}
    energy = spikeformers.measure_energy(name, contexts=[args.context], **text)
    audit = spikeformers.audit_folder(name, require=["softmax-free", "addition-only"], **text)

spiking, dense = (each.picojoules_per_token / 1e3 for each in (energy.paper, energy.paper_control))
pair = energy.full.pair
formats = f"{pair.spiking_format.name} beside {pair.dense_format.name}"
print(f"papers' sum    {spiking:.0f} nJ/token, dense twin {dense:.0f} (estimated)")
print(f"full estimate  {pair.ratio(energy.full.table):.3f} of the twin's, {formats}")
print(f"density        {energy.paper.density:.3f}; the layers that fire most:")
by_density = sorted(energy.paper.neurons.items(), key=lambda item: -item[1].density)
for layer, spikes in by_density[:3]:
    print(f"{spikes.density:.3f}          {spikes.kind:8} {layer}")
for claim, rows in audit.short.items():
    print(f"{claim:14} {f'violated by {rows[0].name}' if rows else 'met'}")
sys.exit(0 if audit.met else 1)
