"""The one list of (model, data) cases on which every claim about the engine is checked."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import case_models as own
import oracles
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import pkbook as pk


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], nn.Module]
    draw: Callable[[int, torch.Generator], Tensor]
    """``n`` inputs in float64 (or tokens)."""
    rest: frozenset[str] = frozenset()
    """Parameters without an exact rule: they go through per-sample autograd."""

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The model in eval mode, always the same, no parameter at a special value."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model = self.make().double().eval()
            with torch.no_grad():  # ones and zeros would hide errors in normalisation layers
                for p in model.parameters():
                    p += 0.1 * torch.randn_like(p)
                for name, b in model.named_buffers():
                    if name.endswith(("running_mean", "running_var")):
                        b += 0.5 * torch.rand_like(b)
        return model.to(dtype)

    def data(self, n: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        x = self.draw(n, torch.Generator().manual_seed(seed))
        return x.to(dtype) if x.is_floating_point() else x


def floats(*shape: int) -> Callable:
    return lambda n, g: torch.randn(n, *shape, generator=g, dtype=torch.float64)


def tokens(size: int, length: int) -> Callable:
    return lambda n, g: torch.randint(size, (n, length), generator=g)


def mlp(*widths: int, activation: str = "tanh") -> Callable:
    return lambda: pk.models.mlp(*widths, activation=activation, seed=1)


def chain(*layers: Callable) -> Callable:
    return lambda: nn.Sequential(*(layer() for layer in layers))


def conv(kind: type[nn.Module], *args, **options) -> Callable:
    return lambda: own.conv(kind(*args, **options))


def norm(kind: type[nn.Module], *args, **options) -> Callable:
    """A normalisation between two linear layers, ``[n, 4, 3] -> [n, 4, 6] -> [n, 4, 2]``."""
    return lambda: nn.Sequential(
        nn.Linear(3, 6), kind(*args, **options), nn.Tanh(), nn.Linear(6, 2)
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2, padding=1), nn.Tanh(),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(36, 3),
    )  # fmt: skip


def weight_norm() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 2))


def spectral_norm() -> nn.Module:
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 2)
    )


def lookup() -> nn.Module:
    return own.Each(
        lambda m, x: m.out(torch.tanh(m.table(x)).mean(1)),
        table=nn.Embedding(5, 4, padding_idx=2), out=nn.Linear(4, 2),
    )  # fmt: skip


def bag() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(5, 4, mode="mean"), nn.Tanh(), nn.Linear(4, 2))


def bilinear() -> nn.Module:
    return own.Each(lambda m, x: m.a(x[:, :2], x[:, 2:]), a=nn.Bilinear(2, 3, 2))


def squeezed() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))


def _case(name, make, draw, *rest: str) -> Case:
    return Case(name, make, draw, frozenset(rest))


VECTOR, IMAGE, SERIES = floats(5), floats(2, 6, 6), floats(4, 3)

CASES = [
    _case("linear", chain(lambda: nn.Linear(5, 3)), VECTOR),
    _case("mlp, several outputs", mlp(5, 7, 6, 3), VECTOR),
    _case("mlp, one output", mlp(5, 9, 1, activation="relu"), VECTOR),
    _case("mlp, wide output", mlp(3, 4, 12), floats(3)),
    _case("outputs [n]", squeezed, VECTOR),
    _case("outputs [n, T, C]", mlp(3, 4, 2), SERIES),
    _case("tied linear", own.tied_linear, VECTOR),
    _case("tied embedding", own.tied_embedding, tokens(6, 4)),
    _case("called twice", own.called_twice, VECTOR),
    _case("recurrent cell", own.cell, floats(4, 2)),
    _case("one convolution, two sizes", own.pyramid, floats(2, 4, 4)),
    _case("met in two ways", own.met_in_two_ways, VECTOR),
    _case("cnn", cnn, IMAGE),
    _case("residual cnn, batch norm", own.residual_cnn, IMAGE),
    _case("convolution 1d", conv(nn.Conv1d, 2, 3, 3, stride=2, padding=1), floats(2, 7)),
    _case("convolution 3d", conv(nn.Conv3d, 1, 2, (2, 3, 1), padding=(0, 1, 0), bias=False),
          floats(1, 3, 4, 2)),
    _case("depthwise", conv(nn.Conv2d, 4, 8, 3, groups=4), floats(4, 5, 5)),
    _case("grouped", conv(nn.Conv2d, 4, 6, 3, groups=2, padding=1, stride=2), floats(4, 5, 5)),
    _case("dilated", conv(nn.Conv2d, 2, 3, (2, 3), dilation=(3, 2), padding=2), IMAGE),
    _case("strided", conv(nn.Conv2d, 2, 3, (3, 2), stride=(2, 3), padding=(1, 0)), IMAGE),
    _case("pointwise", conv(nn.Conv2d, 2, 5, 1), IMAGE),
    _case("padding same", conv(nn.Conv2d, 2, 3, (4, 3), dilation=(1, 2), padding="same"), IMAGE),
    _case("padding valid", conv(nn.Conv2d, 2, 3, 2, padding="valid"), IMAGE),
    *(_case(f"padding {mode}", conv(nn.Conv2d, 2, 3, 3, padding=(2, 1), padding_mode=mode), IMAGE)
      for mode in ("reflect", "circular", "replicate")),
    _case("padding same, circular",
          conv(nn.Conv1d, 2, 3, 4, padding="same", padding_mode="circular"), floats(2, 7)),
    _case("transposed convolution", conv(nn.ConvTranspose2d, 2, 3, 3, stride=2), floats(2, 3, 3)),
    _case("transposed convolution, groups and padding",
          conv(nn.ConvTranspose2d, 4, 6, 3, stride=(2, 3), padding=(1, 0), output_padding=(1, 2),
               groups=2), floats(4, 3, 3)),
    _case("transposed convolution 1d, dilated",
          conv(nn.ConvTranspose1d, 3, 2, 3, dilation=3, output_padding=2, padding=2), floats(3, 5)),
    _case("transposed convolution 3d", conv(nn.ConvTranspose3d, 2, 2, 2, stride=2, bias=False),
          floats(2, 2, 2, 2)),
    _case("frames, transposed convolution", lambda: own.merged_images(True, nn.ConvTranspose2d),
          floats(3, 2, 3, 3)),
    _case("matrices on the right, with bias", own.right_linear, floats(2, 3)),
    _case("products by hand", own.by_hand, SERIES),
    _case("class token", own.class_token, SERIES),
    _case("positions of numbers, tied output", own.positions_of_numbers, tokens(6, 5)),
    _case("root mean square by hand, gate", own.root_mean_square, SERIES),
    _case("experts in one array", own.experts, VECTOR),
    _case("made of the input, too", own.made_of_the_input, VECTOR, "w"),
    _case("deep rnn", lambda: own.deep_recurrent(nn.RNN, nonlinearity="relu", bias=False),
          floats(4, 2)),
    _case("deep gru", lambda: own.deep_recurrent(nn.GRU), floats(4, 2)),
    _case("deep lstm", lambda: own.deep_recurrent(nn.LSTM, batch_first=True), floats(4, 2)),
    _case("in place activations", own.inplace, floats(2, 5, 5)),
    _case("in place residual", own.inplace_residual, VECTOR),
    _case("encoder", own.encoder, floats(4, 6)),
    _case("encoder, source mask", lambda: own.encoder(masked=True), floats(4, 6)),
    _case("encoder, padding mask", lambda: own.encoder(padded=True), floats(4, 6)),
    _case("encoder, sequence first",
          lambda: own.encoder(batch_first=False, masked=True, padded=True), floats(4, 6)),
    _case("self attention", own.self_attention, floats(3, 6)),
    _case("cross attention", own.cross_attention, floats(4, 6)),
    _case("lstm", lambda: own.recurrent(nn.LSTM), floats(4, 2)),
    _case("gru", lambda: own.recurrent(nn.GRU), floats(4, 2)),
    _case("unused parameters", own.unused, VECTOR, "never.weight", "never.bias", "lone"),
    _case("layer at two places", own.at_two_places, VECTOR),
    _case("scale outside a layer", own.scaled, VECTOR),
    _case("product outside a layer", own.product, VECTOR),
    _case("positions added", own.positional, SERIES),
    _case("positions from a table", own.positional_table, SERIES),
    _case("branch without input", own.constant_branch, VECTOR),
    _case("parameter into a layer", own.learned_query, VECTOR),
    _case("weight norm", weight_norm, VECTOR),
    _case("spectral norm", spectral_norm, VECTOR, "0.parametrizations.weight.original"),
    _case("embedding, padding", lookup, tokens(5, 6)),
    _case("embedding bag", bag, tokens(5, 6), "0.weight"),
    _case("layer norm", norm(nn.LayerNorm, 6), SERIES),
    _case("layer norm, two dimensions", norm(nn.LayerNorm, (4, 6)), SERIES),
    _case("layer norm without bias", norm(nn.LayerNorm, 6, bias=False), SERIES),
    _case("rms norm", norm(nn.RMSNorm, 6), SERIES),
    _case("group norm", norm(nn.GroupNorm, 2, 4), SERIES),
    _case("group norm of vectors", norm(nn.GroupNorm, 3, 6), floats(3)),
    _case("batch norm 1d", norm(nn.BatchNorm1d, 4), SERIES),
    _case("batch norm of vectors", norm(nn.BatchNorm1d, 6), floats(3)),
    _case("instance norm", norm(nn.InstanceNorm1d, 4, affine=True, track_running_stats=True),
          SERIES, "1.weight", "1.bias"),
    _case("prelu", chain(lambda: nn.Linear(5, 4), nn.PReLU, lambda: nn.Linear(4, 2)), VECTOR,
          "1.weight"),
    _case("unused parameter, own function", own.own_activation, VECTOR, "never"),
    _case("bilinear", bilinear, VECTOR, "a.weight", "a.bias"),
    _case("frozen layer", lambda: own.frozen("0"), VECTOR),
    _case("frozen bias", lambda: own.frozen("2.bias"), VECTOR),
    _case("frozen weight", lambda: own.frozen("0.weight"), VECTOR),
    _case("time distributed", chain(lambda: nn.Linear(3, 4), nn.Tanh, nn.Flatten,
                                    lambda: nn.Linear(16, 2)), SERIES),
    _case("frames, sample first", lambda: own.merged_images(True), floats(3, 2, 3, 3)),
    _case("frames, time first", lambda: own.merged_images(False), floats(3, 2, 3, 3)),
    _case("rows, time first", own.merged_rows, SERIES),
    _case("sequence first", own.sequence_first, SERIES),
    _case("arguments by keyword", own.by_keyword, VECTOR),
    _case("own autograd function", own.own_function, VECTOR, "w"),
    _case("own function and layer", own.own_function_and_layer, VECTOR, "a.weight"),
    _case("recomputed activations", own.recomputed, VECTOR),
]  # fmt: skip
BY_NAME = {case.name: case for case in CASES}
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def some(*names: str):
    return pytest.mark.parametrize("case", [BY_NAME[n] for n in names], ids=lambda case: case.name)


def off(got, wanted):
    """Largest error, relative to the largest entry."""
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / wanted.abs().max())


@functools.cache
def setting(case: Case):
    """The model, two batches and their naive Jacobians."""
    model, x1, x2 = case.model(), case.data(5, 0), case.data(3, 1)
    return model, x1, x2, oracles.jacobian(model, x1), oracles.jacobian(model, x2)


def reduced(left, right, reduce, row=None):
    """The kernel from Jacobians ``[n, C, P]``."""
    left = left if row is None else left * row
    full = torch.einsum("icp,jdp->ijcd", left, right)
    diagonal = full.diagonal(dim1=2, dim2=3)
    return {"full": full, "diagonal": diagonal, "trace": diagonal.sum(2)}[reduce]
