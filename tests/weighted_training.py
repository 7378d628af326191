"""A training with weights of its samples, by torch alone: the oracle of influence."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_


def trained(
    model: nn.Module,
    losses,
    make_optimizer,
    data: tuple[Tensor, Tensor],
    batches: list,
    weights: Tensor,
    *,
    clip_norm=None,
    clip_value=None,
    schedule=None,
) -> nn.Module:
    """A copy of the model trained on batches, each sample's loss times its weight.

    ``losses(outputs, targets)`` gives ``[n]``; a batch that is a list of batches is accumulated.
    """
    model = copy.deepcopy(model).train()
    optimizer = make_optimizer(model)
    scheduler = None if schedule is None else schedule(optimizer)
    x, y = data
    for batch in batches:
        parts = batch if isinstance(batch[0], list) else [batch]
        optimizer.zero_grad()
        for part in parts:
            value = (weights[part] * losses(model(x[part]), y[part])).mean() / len(parts)
            value.backward()
        if clip_norm is not None:
            clip_grad_norm_(model.parameters(), clip_norm)
        if clip_value is not None:
            clip_grad_value_(model.parameters(), clip_value)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return model.eval()


def by_differences(answer, train, n: int, samples: list[int], h: float = 1e-4) -> Tensor:
    """Central differences of ``answer(train(weights))`` by some samples' weights, ``[s, ...]``.

    Of fourth order: the error is of the size of ``h ** 4``.
    """
    found = []
    for i in samples:
        at = {}
        for steps in (-2, -1, 1, 2):
            weights = torch.ones(n, dtype=torch.float64)
            weights[i] += steps * h
            model = train(weights)
            with torch.no_grad():
                at[steps] = answer(model)
        found.append((8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h))
    return torch.stack(found)
