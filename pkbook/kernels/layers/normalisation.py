r"""Normalisation :math:`z=w\hat a+b`: gradients :math:`\sum g\hat a` and :math:`\sum g`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pkbook.basics.parameters import Tree
from pkbook.kernels.factors import Dense, Layout, widen
from pkbook.kernels.layers.layer import Layer, Named, Reading, Use, split


class _Normalisation(Layer):
    def normalised(self, use: Use) -> Tensor:
        r""":math:`\hat a`, in the activation's shape."""
        raise NotImplementedError

    def total(self, t: Tensor) -> Tensor:
        """From ``[n, T, ...]`` to ``[n, P]``: the sum over everything that one entry scales."""
        raise NotImplementedError

    def factors(self, use: Use, layout: Layout, g: list[Tensor], parameters: Tree) -> Named:
        leading = self.leading(use)
        g = split(g, layout, leading)
        with torch.no_grad():
            hat = layout.split(widen(self.normalised(use)), leading)
        yield use.weight, Dense(torch.stack([self.total(part * hat) for part in g]))
        yield use.bias, Dense(torch.stack([self.total(part) for part in g]))


class _OverLast(_Normalisation):
    """Over the last dimensions, which the weight has, too."""

    def leading(self, use: Use) -> int:
        return use.inputs.ndim - len(use.options["shape"])

    def total(self, t: Tensor) -> Tensor:
        return t.sum(1).flatten(1)


class _ByChannel(_Normalisation):
    """The weight has an entry for each channel; channels come first, then space."""

    def leading(self, use: Use) -> int:
        return 1

    def total(self, t: Tensor) -> Tensor:
        return t.flatten(3).sum((1, 3)) if t.ndim > 3 else t.sum(1)


class LayerNorm(_OverLast):
    """``F.layer_norm``."""

    def read(self, input, normalized_shape, weight=None, bias=None, eps=1e-5) -> Reading:
        return Reading(input, weight, bias, {"shape": tuple(normalized_shape), "eps": eps})

    def normalised(self, use: Use) -> Tensor:
        return F.layer_norm(use.inputs, use.options["shape"], eps=use.options["eps"])


class RMSNorm(_OverLast):
    """``F.rms_norm``."""

    def read(self, input, normalized_shape, weight=None, eps=None) -> Reading:
        return Reading(input, weight, None, {"shape": tuple(normalized_shape), "eps": eps})

    def normalised(self, use: Use) -> Tensor:
        return F.rms_norm(use.inputs, use.options["shape"], eps=use.options["eps"])


class GroupNorm(_ByChannel):
    """``F.group_norm``."""

    def read(self, input, num_groups, weight=None, bias=None, eps=1e-5) -> Reading:
        return Reading(input, weight, bias, {"groups": num_groups, "eps": eps})

    def normalised(self, use: Use) -> Tensor:
        return F.group_norm(use.inputs, use.options["groups"], eps=use.options["eps"])


class BatchNorm(_ByChannel):
    """``F.batch_norm`` with running statistics; with those of the batch, samples are mixed."""

    def read(self, input, running_mean, running_var, weight=None, bias=None, training=False,
             momentum=0.1, eps=1e-5) -> Reading | None:  # fmt: skip
        if training:
            return None
        options = {"mean": running_mean, "var": running_var, "eps": eps}
        return Reading(input, weight, bias, options)

    def normalised(self, use: Use) -> Tensor:
        o = use.options
        return F.batch_norm(use.inputs, o["mean"], o["var"], training=False, eps=o["eps"])
