"""The terms of the field that a report explains: each is linked where a page first uses it.

The meanings are those of docs/glossary.md, word for word (a test holds both together).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Term:
    """A term of the glossary: its heading there, how texts write it, and what it means."""

    name: str
    written: str
    """A regular expression, of whole words; lower case also matches a capital at the start."""
    meaning: str

    @property
    def anchor(self) -> str:
        """Of the heading in docs/glossary.md, and with ``term-`` before it that of a report."""
        return re.sub(r"[^a-z0-9-]", "", self.name.lower().replace(" ", "-"))


TERMS = (
    Term(
        "Spike",
        "spikes?",
        "What a neuron sends on when its membrane potential reaches the threshold. A value of 0 "
        "means that it did not fire, and the next linear map can skip its weights.",
    ),
    Term(
        "LIF",
        "LIF",
        "Leaky integrate-and-fire: a binary neuron. It adds its input to a membrane that decays, "
        "fires at the threshold and is then reset.",
    ),
    Term(
        "IF",
        "IF",
        "Integrate-and-fire: a LIF neuron without decay. Converted models use pairs of them, one "
        "for positive and one for negative values.",
    ),
    Term(
        "I-LIF",
        "I-LIF",
        "A neuron that emits a count from 0 to D in one step instead of at most one spike. On "
        "hardware the count is sent as that many binary spikes.",
    ),
    Term(
        "NI-LIF",
        "NI-LIF",
        "I-LIF with the count divided by D, so that its values lie between 0 and 1. It is the "
        "neuron of the winner-take-all paper; the causal presets have dead zones instead.",
    ),
    Term(
        "T-LIF",
        "T-LIF",
        "A ternary neuron: it emits -a, 0 or a, where a is a learned or fixed amplitude.",
    ),
    Term(
        "T x D",
        "T x D",
        'T simulation steps with counts up to D in each: "1x16" means one step and counts from 0 '
        'to 16. Papers often call a 1x4 model "4 time steps"; here both numbers are stated.',
    ),
    Term(
        "Simulation step",
        "simulation steps?",
        "One update of all neurons for the same input. It is not a token: a text of 100 tokens "
        "with T = 4 takes four updates of each neuron per token.",
    ),
    Term(
        "Surrogate gradient",
        "surrogate gradients?",
        "A smooth function that replaces the derivative of the threshold in the backward pass, "
        "because the true derivative is zero almost everywhere. The forward pass stays exact.",
    ),
    Term(
        "Rate code",
        "rate codes?",
        "A number is represented by how many spikes occur in T steps, whenever they occur. T steps "
        "distinguish T sizes.",
    ),
    Term(
        "Phase code",
        "phase codes?",
        "A spike at step t counts 2^-t, as in a binary number. T steps distinguish 2^T - 1 sizes, "
        "with at most T spikes.",
    ),
    Term(
        "Threshold per token",
        "thresholds? per token",
        "The threshold of a neuron follows the values of its token instead of being fixed for all "
        "texts, so that no calibration text is needed. One unit per token multiplies the sums.",
    ),
    Term(
        "Far neuron",
        "far neurons?",
        "The second, coarser neuron of a value with a threshold per token. It takes the part of a "
        "large value that the first one (the near neuron) cannot represent, and rarely fires.",
    ),
    Term(
        "Dead zone",
        "dead zones?",
        "A range around zero in which a neuron stays silent. Models trained from scratch learn its "
        "width, one per layer; a neuron with a threshold per token has it as a multiple of its "
        "token's mean, chosen per layer so that a target share of the weights is read.",
    ),
    Term(
        "Budget",
        "budgets?",
        "The share of the bytes of its weights that a model trained from scratch may read per "
        "token. Training holds it by raising the thresholds of its neurons.",
    ),
    Term(
        "SSA",
        "SSA",
        "Spiking self-attention: the scores of spiking queries and keys are multiplied with the "
        "values, scaled, without a softmax and without a competition.",
    ),
    Term(
        "WSSA",
        "WSSA",
        "Winner-take-all spiking self-attention: keys compete, and the values of the winners are "
        "read. Each query sees all tokens, before and after it.",
    ),
    Term(
        "CWSSA",
        "CWSSA",
        "Causal WSSA: a query sees only its own and earlier tokens, which language models need. "
        "Later tokens are masked before the competition, so they never change a winner.",
    ),
    Term(
        "Winner",
        "winners?",
        'A key that wins the competition for a query. With wta="hard" there is one, with "top_k" '
        "there are K; the lowest index wins ties.",
    ),
    Term(
        "Coincidence",
        "coincidences?",
        "A feature in which both the query and the key fired. A score counts coincidences, so it "
        "needs no multiplication.",
    ),
    Term(
        "SFSA",
        "SFSA",
        "The softmax-free attention of BiSpikCLM: each pair of a query and a key has a neuron of "
        "its own, and the pair counts if that neuron fires.",
    ),
    Term(
        "Dense twin",
        "(?:[dD]ense|ViT) twins?",
        "A Transformers model without spikes that has the same vocabulary, width, depth, heads and "
        "MLP as a spiking one, trained on the same tokens by the same loop. Every result stands "
        "beside its twin's.",
    ),
    Term(
        "SpAD",
        "SpAD",
        "Spike-aware alignment distillation: training a spiking student with five losses that "
        "compare it with a dense teacher.",
    ),
    Term(
        "Firing rate",
        "firing rates?",
        "The mean number of spikes of a neuron per simulation step. For binary neurons it equals "
        "the density; for counts it can exceed it. A term of the loss keeps it low.",
    ),
    Term(
        "Density",
        "densit(?:y|ies)",
        "The share of a layer's outputs that are not zero, measured on real text. It says which "
        "part of the weights the next layer needs.",
    ),
    Term(
        "MAC",
        "MACs?|multiply-accumulates?",
        "A multiply-accumulate: one multiplication and one addition of a dense matrix product. The "
        "papers price it at 4.6 pJ.",
    ),
    Term(
        "SOP",
        "SOPs?|synaptic operations?",
        "A synaptic operation: the addition of one weight because of one spike. A count c takes c "
        "of them. The papers price it at 0.9 pJ.",
    ),
    Term(
        "Estimated and measured",
        "estimated|measured",
        "Measured means timed or counted in a real run. An energy is estimated unless a meter "
        "recorded it: counted operations times published prices.",
    ),
    Term(
        "Break-even density",
        "break-even(?: densit(?:y|ies))?",
        "The density at which the estimated energy of a spiking model equals that of its dense "
        "twin. Below it the spiking model needs less.",
    ),
    Term(
        "Perplexity",
        "perplexit(?:y|ies)",
        "The exponential of the mean loss per token. It depends on the tokenizer, so it compares "
        "only models with the same one.",
    ),
    Term(
        "Bits per byte",
        "bits(?: per |/)byte",
        "The loss of a text in bits, divided by its bytes. It does not depend on the tokenizer. "
        "Lower is better.",
    ),
    Term(
        "Event",
        "events?",
        "One input that is not zero: a neuron that fired. The engine reads a row of weights for "
        "each event and skips all others.",
    ),
    Term(
        "Engine file",
        "engine files?",
        "A single file with a model's weights, description and tokenizer, which the engine opens "
        "without PyTorch.",
    ),
    Term(
        "Prefill and decode",
        "prefill|decode",
        "Prefill reads a prompt, many tokens at once; decode writes one token after another. Their "
        "speeds and energies differ and are given separately.",
    ),
)


def pattern_of(terms: Iterable[Term]) -> re.Pattern[str]:
    """Any of the terms as a whole word, the longest first; the group's name is ``t`` and its place.

    ``I-LIF`` is not a use of ``LIF``.
    """
    alternatives = []
    for place, term in enumerate(terms):
        first, rest = term.written[0], term.written[1:]
        begin = f"[{first}{first.upper()}]" if first.islower() else re.escape(first)
        written = f"(?:{begin}{rest})" if first.isalpha() else f"(?:{term.written})"
        written = written.replace(" ", r"\s+")
        alternatives.append((len(term.written), f"(?P<t{place}>{written})"))
    ordered = "|".join(text for _, text in sorted(alternatives, reverse=True))
    return re.compile(rf"(?<![\w-])(?:{ordered})(?![\w-])")


_PATTERN = pattern_of(TERMS)
_TAG = re.compile(r"(<[^>]*>)")
_CLOSED = frozenset({"a", "h1", "h2", "h3", "pre", "code", "style", "title"})
"""Elements whose text is left as it is."""


def link_terms(body: str) -> tuple[str, list[Term]]:
    """``body``, an HTML fragment, with each term linked at its first use; the terms, sorted."""
    used: dict[str, Term] = {}

    def link(match: re.Match[str]) -> str:
        term = TERMS[int(str(match.lastgroup)[1:])]
        if term.name in used:
            return match[0]
        used[term.name] = term
        title = escape(term.meaning)
        return f'<a class="term" href="#term-{term.anchor}" title="{title}">{match[0]}</a>'

    parts, inside = [], 0
    for part in _TAG.split(body):
        if part.startswith("<"):
            name = part.strip("</>").split(" ")[0]
            if name in _CLOSED:
                inside += -1 if part.startswith("</") else 1
            parts.append(part)
        else:
            parts.append(part if inside else _PATTERN.sub(link, part))
    return "".join(parts), sorted(used.values(), key=lambda term: term.name.lower())


def term_list(terms: Iterable[Term]) -> str:
    """The section that the links lead to; empty without terms."""
    entries = "\n".join(
        f'<dt id="term-{term.anchor}">{escape(term.name)}</dt><dd>{escape(term.meaning)}</dd>'
        for term in terms
    )
    return f"<h2>Terms</h2>\n<dl>\n{entries}\n</dl>" if entries else ""
