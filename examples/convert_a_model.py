"""Convert a dense model of your own into a spiking one, without training, and compare both.

A small dense GPT-2 or LLaMA is built from its config, trained for some steps, and converted with
thresholds per token: every linear map reads spikes, and no calibration text is needed. More
simulation steps T represent more levels. Printed is the perplexity on held-out text:

    dense gpt2      perplexity 23.657
    spiking, T = 8  perplexity 23.657
    spiking, T = 2  perplexity 24.258
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

import spikeformers

parser = argparse.ArgumentParser()
parser.add_argument("--architecture", choices=("gpt2", "llama"), default="gpt2")
parser.add_argument("--T", type=int, nargs="+", default=[8, 4, 3, 2], help="simulation steps")
sizes = {"steps": 100, "batch-size": 8, "context": 64, "width": 96, "layers": 3, "tokens": 4096}
for name, default in {"data": "builtin", **sizes}.items():
    parser.add_argument(f"--{name}", type=type(default), default=default)
args = parser.parse_args()

corpus = spikeformers.load_corpus(args.data)
tokenizer = spikeformers.make_tokenizer("byte", corpus)
store = spikeformers.tokenize_corpus(corpus, tokenizer)
shape = {
    **{"vocab_size": len(tokenizer), "hidden_size": args.width, "num_attention_heads": 4},
    **{"num_hidden_layers": args.layers, "max_position_embeddings": args.context},
    **{"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id},
}
torch.manual_seed(0)
config = (GPT2Config if args.architecture == "gpt2" else LlamaConfig)(**shape)
dense = AutoModelForCausalLM.from_config(config)


def perplexity(model):
    """On the held-out text."""
    text = store.split("validation")
    return spikeformers.perplexity(model, tokenizer, text, max_tokens=args.tokens).perplexity


with tempfile.TemporaryDirectory() as out:
    lengths = {"steps": args.steps, "batch_size": args.batch_size, "context": args.context}
    training = spikeformers.TrainConfig(learning_rate=3e-3, eval_batches=4, **lengths)
    spikeformers.train(dense, store, tokenizer, Path(out, "dense"), training, progress=False)
    print(f"dense {args.architecture:9} perplexity {perplexity(dense.eval()):.3f}")
    for steps in args.T:
        plan = spikeformers.make_plan(dense, threshold="token", steps=steps)
        folder = Path(out, f"spiking-{steps}")
        spiking = spikeformers.convert(dense, tokenizer, None, plan, folder).model
        print(f"spiking, T = {steps:<2} perplexity {perplexity(spiking.eval()):.3f}")
