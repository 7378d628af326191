"""Recurrent layers written out in linear layers, so that a watch sees their weights step by step.

``nn.RNN``, ``nn.GRU`` and ``nn.LSTM`` call one fused function.  The same written out is made of
``F.linear`` alone: one for all inputs of a sequence at once, and one for the state at each time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Cell = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""New state from what the input gives, what the hidden state gives, and the state."""


def _simple(activation: Callable[[Tensor], Tensor], x: Tensor, h: Tensor, state) -> tuple:
    return (activation(x + h),)


def _gru(x: Tensor, h: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (reset_x, update_x, new_x), (reset_h, update_h, new_h) = x.chunk(3, -1), h.chunk(3, -1)
    reset, update = torch.sigmoid(reset_x + reset_h), torch.sigmoid(update_x + update_h)
    new = torch.tanh(new_x + reset * new_h)
    return ((1 - update) * new + update * state[0],)


def _lstm(x: Tensor, h: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    enter, forget, new, leave = (x + h).chunk(4, -1)
    cell = torch.sigmoid(forget) * state[1] + torch.sigmoid(enter) * torch.tanh(new)
    return torch.sigmoid(leave) * torch.tanh(cell), cell


CELLS: dict[Callable, Cell] = {
    torch.rnn_tanh: partial(_simple, torch.tanh),
    torch.rnn_relu: partial(_simple, torch.relu),
    torch.gru: _gru,
    torch.lstm: _lstm,
}


def written_out(func: Callable, args: tuple) -> Any:
    """What a fused recurrent function returns; ``NotImplemented`` for uses that are not known.

    Those are packed sequences, dropout between layers, and projections.
    """
    if len(args) != 9 or not isinstance(args[2], list | tuple):  # packed, or by keyword
        return NotImplemented
    x, start, weights, biases, layers, dropout, training, both_ways, batch_first = args
    ways, each = 2 if both_ways else 1, 4 if biases else 2
    if (training and dropout) or len(weights) != layers * ways * each:
        return NotImplemented
    x = x.transpose(0, 1) if batch_first else x  # [T, n, d]
    start = start if isinstance(start, list | tuple) else (start,)  # each [layers * ways, n, h]
    ends = []
    for layer in range(layers):
        sides = []
        for way in range(ways):
            place = layer * ways + way
            own = [*weights[place * each : (place + 1) * each], None, None][:4]
            out, end = _along(CELLS[func], x, tuple(s[place] for s in start), own, way == 1)
            sides.append(out)
            ends.append(end)
        x = torch.cat(sides, -1) if both_ways else sides[0]
    out = x.transpose(0, 1) if batch_first else x
    return out, *(torch.stack(parts) for parts in zip(*ends, strict=True))


def _along(
    cell: Cell, x: Tensor, state: tuple[Tensor, ...], weights: list, backwards: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All states of one layer in one direction ``[T, n, h]``, and the last one."""
    into, again, into_bias, again_bias = weights
    steps, found = F.linear(x, into, into_bias).unbind(0), []
    for step in reversed(steps) if backwards else steps:
        state = cell(step, F.linear(state[0], again, again_bias), state)
        found.append(state[0])
    return torch.stack(found[::-1] if backwards else found), state
