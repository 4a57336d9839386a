"""The engine from Python: pack a model, save and open the file, write text, count what was read.

The engine reads only the weights of inputs that fire. Printed are the size of the file, a text, the
share of weights read, and details of the prompt's last token: how many neurons fired, what each
layer read, and which token each of its first heads chose (places in the text, from 0):

    file      0.96 MB, int8 weights
    text      ' t tans n ther ie cen lutin ate pret me '
    read      0.493 of the weights per token, over 54 tokens
    token     2575 of 4736 neurons fired
    layer 0   119424 bytes, winners [13, 14, 13, 13]
"""

import argparse
import tempfile
from pathlib import Path

import spikeformers
from spikeformers.engine import write

parser = argparse.ArgumentParser()
parser.add_argument("--data", default="builtin", help="a text file, a folder, or builtin")
parser.add_argument("--weights", choices=("fp32", "int8", "int4"), default="int8")
parser.add_argument("--prompt", default="The interpreter")
sizes = {"steps": 60, "batch-size": 8, "context": 64, "new-tokens": 40, "threads": 1}
for name, size in sizes.items():
    parser.add_argument(f"--{name}", type=int, default=size)
args = parser.parse_args()

settings = {"learning_rate": 3e-3, "eval_batches": 4, "max_position_embeddings": 512}
settings |= {"steps": args.steps, "batch_size": args.batch_size, "context": args.context}
with tempfile.TemporaryDirectory() as out:
    source = {"data": args.data, "tokenizer": "byte", "settings": settings}
    run = spikeformers.pretrain("wd-spikingformer-tiny", out=Path(out, "run"), **source)
    file = Path(out, "tiny.engine")
    size = write(spikeformers.pack(run.model.eval(), run.processor, args.weights), file)
    engine = spikeformers.load_engine(file, threads=args.threads)

    written = spikeformers.generate_text(
        engine, args.prompt, max_new_tokens=args.new_tokens, temperature=0.7, seed=1
    )
    counters = engine.counters()  # since the file was opened
    text = engine.sequence(details=True)
    engine.feed(text, engine.tokenizer(args.prompt)["input_ids"])  # logits [V]
    details = engine.details(text)

read = counters["weight_bytes"] / counters["tokens"] / engine.dense_weight_bytes
print(f"file      {size / 1e6:.2f} MB, {args.weights} weights")
print(f"text      {written.text!r}")
print(f"read      {read:.3f} of the weights per token, over {counters['tokens']} tokens")
print(f"token     {details.token.events} of {details.token.neurons} neurons fired")
for number, layer in enumerate(details.layers):
    winners = [heads[0] for heads in (layer.winners or ())[:4]]
    print(f"layer {number}   {layer.cost.weight_bytes:6} bytes, winners {winners}")
