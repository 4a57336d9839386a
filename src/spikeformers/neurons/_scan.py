"""LIF over all simulation steps as one autograd function; ``LIF.fire`` and ``keep`` specify it.

    forward     U = I[t] + H;   S[t] = [U >= V_th];   H = keep(U, S[t])
    backward    dS = g[t] + dH * dH/dS;   dU = dS * surrogate(U - V_th) + dH * dH/dU;   dI[t] = dU

                 H                    dH/dS           dH/dU           dH/dV_th
    soft         beta (U - V_th S)    -beta V_th      beta            -beta S
    hard         beta U (1 - S)       -beta U         beta (1 - S)    0
    delayed      beta U - V_th S      -V_th           beta            -S

The loop over ``step`` builds a graph of ten nodes per step; this saves U and runs in place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spikeformers.neurons.surrogate import Derivative


class LIFScan(torch.autograd.Function):
    """``apply(current [S, ...], v_th, decay, reset, derivative, sharpness) -> spikes``.

    ``v_th`` is a float, or a tensor that broadcasts to one step of the current.
    """

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        v_th: float | Tensor,
        decay: float,
        reset: str,
        derivative: Derivative,
        sharpness: float,
    ) -> Tensor:
        u, spikes = current.clone(), torch.empty_like(current)
        for t in range(len(u)):
            torch.ge(u[t], v_th, out=spikes[t])
            if t + 1 == len(u):
                break
            if reset == "hard":
                kept = (u[t] * (1 - spikes[t])).mul_(decay)
            elif reset == "soft":
                kept = (u[t] - spikes[t] * v_th).mul_(decay)
            else:
                kept = (u[t] * decay).sub_(spikes[t] * v_th)
            u[t + 1] += kept
        ctx.learned = isinstance(v_th, Tensor)
        ctx.save_for_backward(u, spikes, *([v_th] if ctx.learned else []))
        ctx.v_th = None if ctx.learned else v_th
        ctx.decay, ctx.reset = decay, reset
        ctx.derivative, ctx.sharpness = derivative, sharpness
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, spikes, *threshold = ctx.saved_tensors
        v_th = threshold[0] if ctx.learned else ctx.v_th
        beta, reset = ctx.decay, ctx.reset
        g = grads[0].clone()  # becomes dI
        g_th = torch.zeros_like(v_th) if ctx.needs_input_grad[1] else None
        for t in reversed(range(len(u))):
            last = t == len(u) - 1
            if not last:  # dH is dU of the step after, since U = I + H
                d_h = g[t + 1]
                into = d_h * (u[t] if reset == "hard" else v_th)
                g[t].sub_(into, alpha=1.0 if reset == "delayed" else beta)
            g[t] *= ctx.derivative(u[t] - v_th, ctx.sharpness)
            if g_th is not None:
                g_th -= g[t].sum_to_size(g_th.shape)
                if not last and reset != "hard":
                    share = 1.0 if reset == "delayed" else beta
                    g_th -= share * (d_h * spikes[t]).sum_to_size(g_th.shape)
            if not last:
                passed = d_h * (1 - spikes[t]) if reset == "hard" else d_h
                g[t].add_(passed, alpha=beta)
        return g, g_th, None, None, None, None
