"""Model cards of fine-tuned sentence classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

import spikeformers
from spikeformers.data.glue import GLUE, TASKS
from spikeformers.reporting.card import facts_of, table
from spikeformers.reporting.tables import markdown


def sentence_card(result: Mapping[str, Any]) -> str:
    """The card of one fine-tuned run, from what is in its ``result.json``."""
    name, config, model = str(result["task"]), result["config"], result["model"]
    task, kind = TASKS[name], str(model["model_type"])
    facts = facts_of(model)
    of_glue = name in (*GLUE, "wnli")
    metrics = [
        {"type": key.split("/")[0], "name": key, "value": round(value, 4)}
        for key, value in result["dev"].items()
        if key in result["dev_majority"]
    ]
    dataset = {"name": f"GLUE {task.folder}" if of_glue else task.folder, "split": "validation"}
    dataset |= {"type": "nyu-mll/glue", "config": name} if of_glue else {"type": name}
    evaluated = {"task": {"type": "text-classification"}, "dataset": dataset, "metrics": metrics}
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": facts.tags(kind),
        "model-index": [{"name": f"{kind}-{name}", "results": [evaluated]}],
    }
    inputs = ", ".join(
        f'"{text} sentence"' for text in ("one", "another")[: len(task.hub_texts) or 1]
    )
    answer = "the score" if task.is_regression else "one score per class"
    loading = (
        "## Loading it\n\n```python\nimport spikeformers  # registers the models\n"
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
        'folder = "."  # this folder\n'
        "model = AutoModelForSequenceClassification.from_pretrained(folder)\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        f'inputs = tokenizer({inputs}, return_tensors="pt")\n'
        f"print(model(**inputs).logits)  # {answer}\n```"
    )
    data = {
        "task": f"{name}, {result['origin']}",
        "examples": ", ".join(f"{count:,} {split}" for split, count in result["examples"].items()),
        "sha256": result["data_sha256"],
        "classes": ", ".join(task.labels) or "none: the answer is a score",
    }
    training = {
        "started from": f"{result['started_from']} (sha256 {result['started_from_sha256'][:12]})",
        "steps": f"{config['steps']:,}",
        "batch": str(config["batch_size"]),
        "context": f"{config['context']} tokens",
        "learning rate": f"{config['learning_rate']:g}, {config['schedule']}",
        "seed": str(config["seed"]),
        "commit": str(result["commit"]),
    }
    scores = [
        (key, f"{100 * result['dev'][key]:.1f}", f"{100 * majority:.1f}")
        for key, majority in result["dev_majority"].items()
    ]
    sections = [
        f"# {kind} on {name}\n\n{facts.heading}, "
        f"{result['parameters']:,} parameters, fine-tuned with spikeformers "
        f"{spikeformers.__version__}.",
        loading,
        "## Data\n\n" + table(data),
        "## Training\n\n" + table(training),
        f"## Results\n\nIn percent (measured). Selection on the dev set: {result['selection']}. "
        "How to repeat them is in `result.json`.\n\n"
        + markdown(("metric", "dev set", "majority"), scores).rstrip(),
    ]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n\n".join(sections) + "\n"
