"""A grammar of small networks from the words of ``fuzz_words``.

A word that does not fit the activation it meets is left out, so that any sentence is a network.
"""

import torch
from fuzz_words import (
    ACTIVATIONS,
    BY_DIMENSION,
    FUNCTIONS,
    MIXING,
    SMOOTH,
    TOKENS,
    TRAINING,
    WAYS,
    Piece,
)
from hypothesis import assume, strategies as st
from torch import nn

D = torch.float64
LARGEST = 120  # entries of one sample's activation
INPUTS = {"vectors": (4,), "sequences": (3, 4), "images": (2, 4, 4), "tokens": (5,)}
MISFITS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError, NotImplementedError)
ROUGH = {"sort features", "masked by a number", "sort positions", "largest", "binned"}


class Network(nn.Sequential):
    """Pieces in a row, and one number or more for each sample at the end."""

    def forward(self, x):
        return super().forward(x).flatten(1)


def fits(piece, x):
    """What a piece makes of an activation in eval mode, or None."""
    try:
        with torch.no_grad():
            y = piece.eval()(x.clone())
    except MISFITS:
        return None
    whole = isinstance(y, torch.Tensor) and y.is_floating_point() and y.ndim > 1
    if not whole or len(y) != len(x) or not 0 < y[0].numel() <= LARGEST or y.ndim > 5:
        return None
    return y if torch.isfinite(y).all() and y.abs().max() < 1e3 else None


def drawn_piece(pick, x, tables, depth=0):
    """One word, its choices, and the words inside it; None where it does not fit."""
    shape = tuple(x.shape[1:])
    kind = pick("layer", "function", "activation", "layer", "way" if depth < 2 else "function")
    if kind == "way":
        word, inner = pick(*WAYS), drawn_piece(pick, x, tables, depth + 1)
        return None if inner is None else named(Piece(WAYS[word], a=inner), word)
    table = BY_DIMENSION.get(len(shape)) if kind == "layer" else tables[kind]
    if kind == "layer" and "layer" in tables and len(shape) == 1:
        table = table | tables["layer"]
    if table is None:
        return None
    word = pick(*table)
    try:
        return changed(named(table[word](pick, shape), word).double())
    except MISFITS:
        return None


def named(piece, word):
    piece.told = word
    if isinstance(piece, Piece):
        piece.word = word
    return piece


def changed(piece):
    """No parameter is left at a round number, and no running statistic."""
    with torch.no_grad():
        for p in piece.parameters():
            if p.numel() and (p == p.flatten()[0]).all():
                p.add_(0.3 * torch.randn_like(p))
        for name, b in piece.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                b.add_(torch.rand_like(b))
    return piece


def tables_of(training):
    """The words by kind; for training smooth ones, and statistics of the batch."""
    some = SMOOTH if training else ACTIVATIONS
    tables = {"activation": {a.__name__: (lambda pick, s, a=a: a()) for a in some}}
    tables["function"] = {n: f for n, f in FUNCTIONS.items() if not (training and n in ROUGH)}
    if training:
        tables["layer"] = TRAINING
    return tables


@st.composite
def networks(draw, kind, training=False):
    """A network for inputs of a kind; ``training`` asks for smooth ones with batch statistics."""

    def pick(*choices):
        return draw(st.sampled_from(choices))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 9)))
        first, tables, pieces = inputs(kind, 3), tables_of(training), []
        x = first
        for _ in range(draw(st.integers(2, 8))):
            piece = next_piece(pick, pieces, x, kind, tables)
            y = None if piece is None else fits(piece, x)
            if y is not None:
                pieces, x = [*pieces, piece], y
        width = x[0].numel()
        if width > 4 or pick(True, False) or not any(True for p in pieces for _ in p.parameters()):
            pieces += [nn.Flatten(), nn.Linear(width, pick(1, 2, 3)).double()]
        model = Network(*pieces)
        assume(fits(model, first[:1]) is not None)  # statistics that need two numbers
        if pick(*range(6)) == 5:
            freeze(model, pick)
        return model


def next_piece(pick, pieces, x, kind, tables):
    if kind == "tokens" and not pieces:
        # A forward pass of the bounded one changes parameters: that is no step of an optimizer.
        word = pick(*(word for word in TOKENS if word != "bounded table" or "layer" not in tables))
        return named(TOKENS[word](pick, ()).double(), word)
    special = pick(*range(20))
    if special == 19 and "layer" not in tables:
        word = pick(*MIXING)
        return named(Piece(MIXING[word]), word)
    if special > 16 and pieces:
        return pick(*pieces)  # once more, with the same parameters
    return drawn_piece(pick, x, tables)


def freeze(model, pick):
    parameters = list(model.parameters())
    if len(parameters) > 1:
        pick(*parameters).requires_grad_(False)


def inputs(kind, n, shape=None):
    shape = INPUTS[kind] if shape is None else shape
    if kind == "tokens":
        return torch.randint(0, 9, (n, *shape))
    return torch.randn(n, *shape, dtype=D)
