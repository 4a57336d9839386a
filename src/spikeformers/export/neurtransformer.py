"""A converted model for the engine: the source's blocks, spiking where they were converted.

    feed-forward   E(Norm(x)) W_up -> act -> E(.) W_down + x           gated: act(. W_gate) * . W_up
    attention      E(Norm(x)) W_qkv -> (rotate) -> counts -> SSA or winners -> E(.) W_o + x
    kept           the same maps on reals, softmax over a cache of reals, no E
    some sources   a norm per head of q and k before rotation, a norm before each + x

E is a pair of neurons per channel (`spikeformers.models._converted` has the equations): a step of
the engine that writes the decoded spikes, zero where none fired, so that the product after it
reads the rows of what fired. Their values stay apart from the weights, which int8 would round twice
otherwise. With a threshold per token (`spikeformers.neurons.token_if`) E emits counts, at the
inputs of a kept attention's maps and of the head too, and a product multiplies integers.
Sources: those that convert, but for what `spikeformers.export.sources` refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spikeformers.engine import Description, NormSpec
from spikeformers.errors import ConfigError
from spikeformers.export.packer import DescriptionWriter
from spikeformers.export.sources import ACTIVATIONS, refuse_source
from spikeformers.models._sources import rotary_of, source_of, unsupported, windows
from spikeformers.neurons import IF

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spikeformers.models import NeurTransformerForCausalLM
    from spikeformers.models._converted import SpikingSelfAttention

MOST_COUNTS = 2**15 - 1  # of a cache, two bytes each
PLAIN = NormSpec("none")
MOST_TOKEN_STEPS, MOST_REACH = 8, 1024  # of thresholds per token: their near counts fit a byte


def describe(
    model: NeurTransformerForCausalLM, weights: str
) -> tuple[Description, dict[str, NDArray[Any]]]:
    """Description and tensors of a converted model; ConfigError names what is not supported."""
    _refuse(model.config, model.model.config)
    return SourceWriter(model, model.model, weights).written()


def _refuse(config: Any, described: Any) -> None:
    """ConfigError for options of a conversion of the source ``described`` that are not there."""
    kind = described.model_type
    for name, reason in unsupported(described, attention=config.attention, ffn=config.ffn).items():
        if name not in (config.dense or ()):
            raise ConfigError(f"the engine does not run this {kind}: {name}: {reason}.")
    if config.unrolled:
        raise ConfigError(
            "the engine emits each neuron's sum over its steps: unrolled=True does not run "
            "there. unrolled=False computes the same sums."
        )
    if config.ffn == "qcfs" and config.schedule == "pipelined" and not config.has_gated_blocks:
        raise ConfigError(
            "the engine runs QCFS with schedule='layerwise'; schedule='pipelined' is not there."
        )


class SourceWriter:
    """One model being written: a source's blocks, whose parts may spike.

    ``model`` is the whole, ``dense`` the source in it. What spikes is up to the methods that a
    subclass overrides (`export.dense`).
    """

    def __init__(self, model: Any, dense: Any, weights: str) -> None:
        self.model, self.config, self.dense = model, model.config, dense
        self.described: Any = dense.config
        self.source = source_of(self.described.model_type)
        self.shape = self.source.shape(self.described)
        refuse_source(dense)
        self.windows = windows(self.described)
        self.writer = DescriptionWriter(self.described.vocab_size, 1, weights, grouped=True)
        self.to, self.pack = self.writer.to, self.writer.pack

    def attention_spikes(self, layer: int) -> bool:
        """Whether the attention of a layer was converted."""
        spikes: bool = self.config.attention_spikes(layer)
        return spikes

    def feed_forward_spikes(self, layer: int) -> bool:
        """Whether the feed-forward of a layer was converted."""
        return not self.config.is_dense(layer, "mlp")

    def kept_input(self, out: str, source: str, size: int) -> str:
        """The buffer that a map of a kept part reads: the reals themselves."""
        return source

    def _body(self) -> Any:
        """The source without its head."""
        return self.dense.get_submodule(self.source.layers.rpartition(".")[0])

    def written(self) -> tuple[Description, dict[str, NDArray[Any]]]:
        """The description and tensors of the whole model."""
        to, shape, body = self.to, self.shape, self._body()
        wide = (shape.heads + 2 * shape.kv_heads) * shape.head_width
        for name, size in (
            *(("x", shape.width), ("n", shape.width), ("y", shape.width), ("qkv", wide)),
            *(("sum", shape.heads * shape.head_width), ("hidden", shape.hidden)),
            *((("gated", shape.hidden),) if shape.gated else ()),
        ):
            to.real(name, size)
        output = self.model.get_output_embeddings()
        table = self.model.get_input_embeddings()
        head = self.writer.embed(table, output, getattr(body, "wpe", None))  # type: ignore[arg-type]
        if (factor := getattr(table, "embed_scale", None)) is not None:
            scale = torch.full((shape.width,), float(factor))
            to.scale("x", self.pack.keep("embedding.factor", scale))
        parallel = getattr(self.described, "use_parallel_residual", False)
        if parallel:
            to.real("other", shape.width)
        for layer, block in enumerate(self.source.blocks(self.dense)):
            self._block(layer, block, parallel=parallel)
        to.real("last", shape.width)
        to.real("logits", self.described.vocab_size)
        to.select("x", "last")
        norm = self._norm("norm", _last_norm(body))
        fire = getattr(output, "fire", None)
        source = self.input_of("head.in", "last", "last", norm, fire, shape.width)
        to.linear(source, "logits", head)
        if (cap := getattr(self.described, "final_logit_softcapping", None)) is not None:
            to.soft_cap("logits", float(cap))
        to.finish("logits")
        return to, self.pack.tensors

    def _norm(self, name: str, module: nn.Module) -> NormSpec:
        return self.pack.norm(name, module, self.source.norm_offset)

    def _block(self, layer: int, block: Any, *, parallel: bool) -> None:
        """Attention and feed-forward; ``parallel`` ones read the same "x"."""
        prefix = f"layers.{layer}"
        attention = getattr(block, self.source.attention)
        mlp = getattr(block, self.source.mlp)
        before, after = self.source.norms_of(block, "attention")
        norm = self._norm(f"{prefix}.attention.norm", before)
        if self.attention_spikes(layer):
            self._spiking_attention(layer, attention, norm)
        else:
            self._kept_attention(layer, attention, norm)
        if not parallel:
            self._add(f"{prefix}.attention.after", "y", after)
        before, after = self.source.norms_of(block, "mlp")
        norm = self._norm(f"{prefix}.mlp.norm", before)
        out, spiking = "other" if parallel else "y", self.feed_forward_spikes(layer)
        self._feed_forward(prefix, mlp, norm, out, spiking=spiking)
        if parallel:
            self.to.add("other", "x")
        self._add(f"{prefix}.mlp.after", "y", after)

    def _add(self, name: str, source: str, norm: nn.Module | None) -> None:
        """A part's output to the residual "x", behind ``norm`` where there is one."""
        if norm is not None:
            self.to.norm(source, source, self._norm(name, norm))
        self.to.add(source, "x")

    def _feed_forward(
        self, prefix: str, mlp: Any, norm: NormSpec, out: str, *, spiking: bool
    ) -> None:
        """From "x" into ``out``."""
        to, shape = self.to, self.shape
        maps = _modules(mlp) if spiking else self.source.read_mlp(mlp)
        fire = mlp.fire_in if spiking else None
        source = self.input_of(f"{prefix}.mlp.in", "x", "n", norm, fire, shape.width)
        self._linear(source, "hidden", f"{prefix}.{'gate' if shape.gated else 'up'}", maps)
        hidden = "hidden"
        if spiking and mlp.fire_act is not None:
            hidden = self._pair(f"{prefix}.mlp.act", "hidden", mlp.fire_act, shape.hidden)
        else:
            to.activate("hidden", ACTIVATIONS[shape.activation])
        if shape.gated:
            self._linear(source, "gated", f"{prefix}.up", maps)
            to.multiply(hidden, "gated")
            hidden = "gated"
        if spiking and mlp.fire_hidden is not None:
            hidden = self._spikes(f"{prefix}.mlp.hidden", hidden, mlp.fire_hidden, shape.hidden)
        elif not spiking:
            hidden = self.kept_input(f"{prefix}.mlp.hidden", hidden, shape.hidden)
        self._linear(hidden, out, f"{prefix}.down", maps)

    def _kept_attention(self, layer: int, module: Any, norm: NormSpec) -> None:
        """Softmax attention of the source, from "x" into "y"; the inputs of its maps may spike."""
        prefix, shape = f"layers.{layer}", self.shape
        fire, attention = getattr(module, "fire", None), getattr(module, "inner", module)
        fire_out = getattr(getattr(attention, self.source.out), "fire", None)
        maps = self.source.read_attention(_plain(attention), shape)
        self._projections(prefix, maps, norm, fire)
        for name, offset, heads in self._parts():
            if not any(buffer["name"] == name for buffer in self.to.buffers):
                self.to.real(name, heads * shape.head_width)
            self.to.norm("qkv", name, PLAIN, offset)
            if name in self.source.head_norms:
                each = getattr(attention, self.source.head_norms[name])
                spec = self._norm(f"{prefix}.{name}.norm", each)
                assert spec.weight is not None
                self.to.group_norm(name, name, spec.weight, spec.eps)
            self._rotate(layer, name, name, heads)
        scale = self.pack.keep(f"{prefix}.scale", torch.full((shape.heads,), attention.scaling))
        rule = {"rule": "softmax", "window": self.windows.get(layer, 0)}
        self._mix(["query", "key", "value"], rule, scale, 0)
        out, size = "sum", shape.heads * shape.head_width
        if fire_out is not None:
            out = self._spikes(f"{prefix}.attention.out", "sum", fire_out, size)
        else:
            out = self.kept_input(f"{prefix}.attention.out", "sum", size)
        self._linear(out, "y", f"{prefix}.out", maps)

    def _spiking_attention(self, layer: int, module: SpikingSelfAttention, norm: NormSpec) -> None:
        """Spiking attention, from "x" into "y"."""
        prefix, maps, core = f"layers.{layer}", _modules(module), module.core
        self._projections(prefix, maps, norm, module.fire_in)
        neurons = {
            "query": module.fire_query,
            "key": module.fire_key,
            "value": module.fire_value,
        }
        names = []
        for name, offset, heads in self._parts():
            self._rotate(layer, name, "qkv", heads, offset)
            out, size = f"{prefix}.{name}", heads * self.shape.head_width
            names.append(self._pair(out, "qkv", neurons[name], size, offset, counts=True))
        largest = max(neuron.largest for neuron in neurons.values())
        if largest > MOST_COUNTS:
            raise ConfigError(
                f"the engine's cache holds counts to {MOST_COUNTS:,}, and this attention counts to "
                f"{largest:,}: convert with fewer steps."
            )
        scale = self.pack.keep(f"{prefix}.scale", core.scale().flatten())
        self._mix(names, core.engine_rule(), scale, largest)
        self.to.scale("sum", self.pack.keep(f"{prefix}.value_of_v", module.value_of_v().flatten()))
        out = "sum" if module.fire_out is None else self._fired_sum(prefix, module)
        self._linear(out, "y", f"{prefix}.out", maps)

    def _fired_sum(self, prefix: str, module: SpikingSelfAttention) -> str:
        """The neurons that fire sums of V's rows again, into a buffer of their own."""
        to = self.to
        if module.norm is not None:
            eps = module.norm.eps
            to.group_norm(
                *("sum", "sum", self.pack.keep(f"{prefix}.sum_norm", module.norm.weight)),
                torch.finfo(torch.float32).eps if eps is None else eps,
            )
        assert module.gain is not None
        to.scale("sum", self.pack.keep(f"{prefix}.gain", module.gain))
        size = self.shape.heads * self.shape.head_width
        return self._spikes(f"{prefix}.attention.out", "sum", module.fire_out, size)

    def _parts(self) -> Iterator[tuple[str, int, int]]:
        """Name, offset and heads of query, key and value in "qkv"."""
        shape, offset = self.shape, 0
        parts = (("query", shape.heads), ("key", shape.kv_heads), ("value", shape.kv_heads))
        for name, heads in parts:
            yield name, offset, heads
            offset += heads * shape.head_width

    def _rotate(self, layer: int, part: str, buffer: str, heads: int, offset: int = 0) -> None:
        """Rotate ``heads`` of "query" or "key" in ``buffer``, if positions of the source rotate."""
        rotary = rotary_of(self.dense, layer)
        if rotary is None or part == "value":
            return
        name = f"frequency.{rotary.name}" if rotary.name else "frequency"
        self.to.rotate(
            buffer,
            offset=offset,
            heads=heads,
            width=self.shape.head_width,
            frequency=self.pack.keep(name, rotary.frequency),
            factor=rotary.factor,
        )

    def _projections(self, prefix: str, maps: dict[str, Tensor], norm: NormSpec, fire: Any) -> None:
        """From "x" into "qkv"."""
        shape = self.shape
        source = self.input_of(f"{prefix}.attention.in", "x", "n", norm, fire, shape.width)
        self._linear(source, "qkv", f"{prefix}.qkv", maps, ("query", "key", "value"))

    def _mix(self, names: list[str], rule: dict[str, Any], scale: str, largest: int) -> None:
        heads, kv_heads = self.shape.heads, self.shape.kv_heads
        query, key, value = names
        self.to.mix(
            *(query, key, value, "sum"),
            heads=heads,
            kv_heads=kv_heads,
            scale=scale,
            largest=largest,
            **rule,
        )

    def input_of(
        self, out: str, source: str, normed: str, norm: NormSpec, neuron: Any, size: int
    ) -> str:
        """The input of maps after a norm: reals in ``normed``, or spikes in a buffer ``out``."""
        if neuron is not None and neuron.value_per_token:
            return self._spikes(out, source, neuron, size, norm)
        self.to.norm(source, normed, norm)
        return normed if neuron is None else self._spikes(out, normed, neuron, size)

    def _spikes(self, out: str, source: str, neuron: Any, size: int, norm: NormSpec = PLAIN) -> str:
        """Neurons into a buffer of their own; a threshold per token includes the norm."""
        if not neuron.value_per_token:
            return self._pair(out, source, neuron, size)
        spec = neuron.engine_spec()
        if spec["steps"] > MOST_TOKEN_STEPS or not 1 <= spec["reach"] <= MOST_REACH:
            raise ConfigError(
                f"the engine runs thresholds per token of at most {MOST_TOKEN_STEPS} steps and a "
                f"reach of 1 to {MOST_REACH:,} means; this model has steps={spec['steps']} and "
                f"token_reach={spec['reach']}."
            )
        self.to.counts(out, size)
        self.to.encode(source, out, norm, **{key: spec[key] for key in spec if key != "type"})
        return out

    def _pair(
        self, out: str, source: str, neuron: IF, size: int, offset: int = 0, counts: bool = False
    ) -> str:
        """A pair of neurons per channel into a buffer of its own."""
        value = neuron.value.detach()
        if value.dim() > 2:  # thresholds of a head, [1 or 2, H, 1, 1 or K]
            width = self.shape.head_width
            value = value.expand(len(value), value.shape[1], 1, width)
        value = value.reshape(len(value), -1)
        self.to.real(out, size)
        self.to.pair(
            *(source, out, self.pack.keep(f"{out}.spike", value)),
            largest=neuron.largest,
            sign=neuron.signed,
            counts=counts,
            offset=offset,
        )
        return out

    def _linear(
        self,
        source: str,
        out: str,
        name: str,
        maps: dict[str, Tensor],
        parts: tuple[str, ...] | None = None,
    ) -> None:
        """One map of a module, or several side by side, from weights ``[out, in]``."""
        parts = parts or (name.rpartition(".")[2],)
        weight = self.pack.matrix(name, torch.cat([maps[f"{part}.weight"] for part in parts]).T)
        biases = [maps[f"{part}.bias"] for part in parts if f"{part}.bias" in maps]
        bias = self.pack.vector(f"{name}.bias", torch.cat(biases)) if biases else None
        self.to.linear(source, out, weight, bias)


def _plain(attention: nn.Module) -> SimpleNamespace:
    """Its linear maps by name, without the neurons in front of them."""
    children = attention.named_children()
    return SimpleNamespace(**{name: getattr(child, "inner", child) for name, child in children})


def _last_norm(body: Any) -> nn.Module:
    """The norm behind the last block."""
    for name in ("ln_f", "final_layer_norm", "norm"):
        if hasattr(body, name):
            norm: nn.Module = getattr(body, name)
            return norm
    raise ConfigError(f"the engine finds no last norm in {type(body).__name__}.")


def _modules(module: nn.Module) -> dict[str, Tensor]:
    """Weights and biases of a converted module's maps, by name."""
    return {name: parameter.detach() for name, parameter in module.named_parameters()}
