"""Transformers' own Trainer on a spiking model, which is a PreTrainedModel like any other.

It needs `pip install accelerate`. The loss contains the term that holds firing to its budget.
Printed are Trainer's first and last loss, the loss on held-out text without that term, the density
of spikes, and a sample from the model folder that Trainer saved:

    loss      5.28 -> 4.20 with the term
    held out  3.04 nats/token
    density   0.638 of the neurons fire
"""

import argparse
import tempfile

from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed

import spikeformers

parser = argparse.ArgumentParser()
sizes = {"steps": 60, "batch-size": 8, "context": 64, "windows": 2000}
for name, default in {"data": "builtin", **sizes}.items():
    parser.add_argument(f"--{name}", type=type(default), default=default)
args = parser.parse_args()

corpus = spikeformers.load_corpus(args.data)
tokenizer = spikeformers.make_tokenizer("byte", corpus)
store = spikeformers.tokenize_corpus(corpus, tokenizer)


def examples(split, windows):
    """Windows of a split, as the dictionaries that Trainer takes."""
    size = args.context
    rows = spikeformers.calibration_windows(store.split(split), size, windows * size)
    return [{"input_ids": row, "labels": row} for row in rows]


set_seed(0)
config = spikeformers.build_config("wd-spikingformer-tiny", len(tokenizer))
with tempfile.TemporaryDirectory() as out:
    training = TrainingArguments(
        out, max_steps=args.steps, per_device_train_batch_size=args.batch_size, report_to="none",
        learning_rate=3e-3, logging_steps=max(1, args.steps // 6), disable_tqdm=True,
    )  # fmt: skip
    inputs = {"train_dataset": examples("train", args.windows), "processing_class": tokenizer}
    trainer = Trainer(spikeformers.build_model(config), training, **inputs)
    trainer.train()
    held_out = trainer.evaluate(examples("validation", 16))["eval_loss"]
    trainer.save_model(out)
    model = AutoModelForCausalLM.from_pretrained(out).eval()
losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
energy = spikeformers.energy_of(model, [examples("validation", 1)[0]["input_ids"][None]])
text = spikeformers.generate_text(model, "The ", tokenizer=tokenizer, max_new_tokens=30).text
print(f"loss      {losses[0]:.2f} -> {losses[-1]:.2f} with the term")
print(f"held out  {held_out:.2f} nats/token")
print(f"density   {energy.density:.3f} of the neurons fire")
print(f"sample    {text!r}")
