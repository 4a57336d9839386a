"""The packaged model's card, page and picture, from its kept results (`books_model.py`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from _sweep import ROOT, fill_pages
from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text

HOME = ROOT / "src" / "spikeformers" / "packaged" / "books"
PAGE = ROOT / "docs" / "books.md"
PICTURE = ROOT / "docs" / "assets" / "books.png"
PROMPT = "It was a dark and stormy night"
SEEDS = range(10)
LICENCE = (
    "The weights: Apache-2.0, as the package. The collection that the books come from gives all of "
    "them as in the public domain; outside the United States, those of authors who died less than "
    "70 years ago may not be."
)


def figures_table(result: dict[str, Any]) -> str:
    """The spiking model as trained and as shipped, beside its twin."""
    spiking, shipped, twin = result["spiking"], result["shipped"], result.get("twin")

    def column(what: str, digits: int = 4, scale: float = 1.0) -> list[str]:
        cells = [spiking, shipped, twin]
        return ["not yet trained" if c is None else f"{c[what] * scale:,.{digits}f}" for c in cells]

    def trained(what: str) -> list[str]:
        rate = spiking["config"][what]
        return [f"{rate:g}", "", "not yet trained" if twin is None else f"{twin['config'][what]:g}"]

    seen = [
        "not yet trained" if each is None else f"{each['tokens_seen']:,}"
        for each in (spiking, twin)
    ]
    rows = [
        ["bits per byte on test", *column("bits_per_byte")],
        ["nats per token on test", *column("nats_per_token", 3)],
        ["parameters", *column("parameters", 0)],
        ["tokens seen in training", seen[0], "", seen[1]],
        ["learning rate", *trained("learning_rate")],
        ["weights read per token, counted", "", f"{shipped['read']:.3f}", "1"],
        ["density of spikes, counted", "", f"{shipped['density']:.3f}", ""],
        ["uJ per token in decode, estimated", *column("decode_picojoules", 1, 1e-6)],
    ]
    return markdown(["", "as trained, fp32", "as shipped, int8", "dense twin, fp32"], rows)


def note(result: dict[str, Any]) -> str:
    config, splits = result["spiking"]["config"], result["data"]["splits"]
    width, layers, heads, vocabulary = result["spiking"]["shape"]
    size = sum(result["shipped"]["bytes"].values()) / 1e6
    seen = result["spiking"]["tokens_seen"]
    budget = f"{result['spiking']['model']['budget']:g}"
    return (
        f"{_unfinished(config, seen)}{layers} layers of width {width}, {heads} heads, BPE of "
        f"{vocabulary:,}, a budget of {budget} of the weights per token, a context of "
        f"{config['context']} tokens. Trained on {splits['train']['documents']} books "
        f"({splits['train']['tokens']:,} tokens) for {seen:,} tokens; tested on "
        f"{_tested(result)} of {splits['test']['documents']} others. Files: "
        f"{size:.1f} MB. Measured at commit {result['commit']}, torch {result['torch']}; energy is "
        "estimated with memory, int8, at the training context.\n"
    )


def _tested(result: Mapping[str, Any]) -> str:
    """How many tokens of the test split, which `perplexity` reads from its beginning."""
    tokens, split = result["spiking"]["tokens"], result["data"]["splits"]["test"]["tokens"]
    return f"all {tokens:,} tokens" if tokens >= split - 1 else f"the first {tokens:,} tokens"


def _unfinished(config: Mapping[str, Any], seen: int) -> str:
    """A sentence about a model from before the end of its run; "" for one that was trained."""
    if seen >= config["tokens"]:
        return ""
    return (
        f"**A checkpoint of a run that is not finished: {seen:,} of {config['tokens']:,} tokens, "
        "at a learning rate that has not yet come down.** "
    )


def samples_text(result: dict[str, Any]) -> str:
    """All samples, none chosen, none left out."""
    parts = []
    for kind, title in (("spiking", "The spiking model"), ("twin", "Its dense twin")):
        texts = result["samples"].get(kind)
        parts.append(f"### {title}\n")
        if texts is None:
            parts.append("Not yet trained.\n")
            continue
        for seed, text in zip(SEEDS, texts, strict=True):
            plain = re.sub(r"([\\`*_\[\]<>#])", r"\\\1", f"{PROMPT}{text.rstrip()}")
            quoted = "\n".join(f"> {line}".rstrip() for line in plain.splitlines())
            parts.append(f"**Seed {seed}**\n\n{quoted}\n")
    return "\n".join(parts)


def list_of_books(result: dict[str, Any]) -> str:
    """Titles and authors of every split."""
    lines = []
    for part, books in result["data"]["books"].items():
        lines.append(f"**{part}** ({len(books)} books)\n")
        lines += [
            f"- {title}" + "".join(f", {more}" for more in (author, year) if more)
            for title, author, year in books
        ]
        lines.append("")
    return "\n".join(lines)


def card(result: dict[str, Any]) -> str:
    """The data card that lies beside the files."""
    return (
        "---\nlibrary_name: spikeformers\npipeline_tag: text-generation\nlicense: apache-2.0\n"
        "tags: [spikeformers, spiking-neural-network]\n---\n\n# books\n\n"
        "A small spiking language model of English prose, which comes with spikeformers.\n\n"
        f'```bash\nspikeformers generate books --prompt "{PROMPT}"\n```\n\n'
        "```python\nimport spikeformers\nfrom transformers import AutoModelForCausalLM\n\n"
        'model = AutoModelForCausalLM.from_pretrained(spikeformers.weights("books"))\n```\n\n'
        f"{note(result)}\n{figures_table(result)}\n"
        f"## Licence\n\n{LICENCE}\n\n"
        "## Limits\n\nA research model of 5.8 M parameters: it writes in the manner of its books, "
        "with their prejudices, and nothing that it states is reliable.\n\n"
        f"## Books\n\n{list_of_books(result)}"
    )


def draw(result: dict[str, Any]) -> None:
    """Validation loss over tokens, of both models."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.6, 3.8), layout="constrained")
    for key, label, colour in (
        ("spiking", "spiking", "#1b7f5c"), ("twin", "dense twin", "#7a7a7a"),
    ):  # fmt: skip
        if key in result:
            curve = result[key]["curve"]
            x = [point["tokens_seen"] / 1e6 for point in curve]
            y = [point["bits_per_byte"] for point in curve]
            axes.plot(x, y, marker="o", markersize=3, color=colour, label=label)
    axes.set_xlabel("tokens seen, millions")
    axes.set_ylabel("bits per byte on validation")
    axes.set_title("The packaged model in training", loc="left")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(PICTURE, dpi=120)
    plt.close(figure)


def fill(result: dict[str, Any]) -> None:
    """Write card, picture and page."""
    write_text(HOME / "README.md", card(result))
    draw(result)
    picture = "![Bits per byte on validation over the tokens seen](assets/books.png)"
    texts = {
        "books-figures": f"{note(result)}\n{figures_table(result)}\n{picture}\n",
        "books-samples": samples_text(result),
        "books-list": list_of_books(result),
    }
    for mark, text in texts.items():
        fill_pages(mark, text, (PAGE,))
