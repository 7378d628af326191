"""Ways to divide one run's change of a prediction among its samples: ours and other packages'.

A factory takes a case and gives a function without arguments that returns contributions
``[N, m]``; each is used as its documentation shows.  A factory that cannot do a case raises
:class:`~benchmarks.explain_case.Unsuitable`; a package that is not installed raises
``ImportError``.  This module needs torch only: it is imported by the peers' Python as well.
"""

import copy
from functools import partial
from importlib import metadata

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import TensorDataset

from benchmarks import explain_explaind
from benchmarks.explain_case import Case


def _result(contributions: Tensor, other: Tensor | float = 0.0, final: dict | None = None) -> dict:
    """``other``: what belongs to no sample ``[m]``; ``final``: the parameters if it trained."""
    return {"contributions": contributions, "other": other, "final": final}


def _ours(everything: bool = False, **rules):
    def factory(case: Case):
        import pkbook as pk

        model = copy.deepcopy(case.model)
        optimizer = getattr(torch.optim, case.kind)(model.parameters(), **case.options)
        run = pk.Trajectory(model, nn.CrossEntropyLoss(), optimizer, (case.x, case.y))
        for batch in case.batches:
            run.step(batch)

        def explain() -> dict:
            outputs = None if everything else case.outputs
            told = run.interpolate(case.queries, outputs=outputs, **rules)
            other = sum(told.other.values()) + torch.zeros_like(told.change)
            pick = case.picked if everything else lambda values: values[..., 0]
            return _result(pick(told.contributions), pick(other), model.state_dict())

        return explain

    return factory


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="sum")


def _log_probability(outputs: Tensor, targets: Tensor) -> Tensor:
    """In the place of a test loss; after LogSoftmax this changes nothing but the choice."""
    return outputs.log_softmax(1).gather(1, targets[:, None]).sum()


_cross_entropy.reduction = _log_probability.reduction = "sum"  # captum asks


def _captum(case: Case, kind: str, model: nn.Module, numbers: Tensor, states: list, weight: float,
            **options) -> Tensor:  # fmt: skip
    """Scores of captum turned into contributions, ``[n, m]``: a loss going down is a gain."""
    import captum.influence

    def load(model: nn.Module, state: dict) -> float:
        model.load_state_dict(state, strict=False)
        return weight

    tracin = getattr(captum.influence, kind)(
        model=model, train_dataset=TensorDataset(case.x[numbers], case.y[numbers]),
        checkpoints=states, checkpoints_load_func=load, loss_fn=_cross_entropy,
        test_loss_fn=_log_probability, batch_size=min(len(numbers), 500), **options,
    )  # fmt: skip
    return -tracin.influence((case.queries, case.outputs)).detach().T.double()


def captum_steps(case: Case):
    """TracInCP step by step, each with its own batch: the run as it was, but for the optimizer."""
    model = copy.deepcopy(case.model).eval()

    def explain() -> dict:
        total = case.nothing()
        for state, batch in zip(case.states[:-1], case.batches, strict=True):
            weight = case.rate / len(batch)
            part = _captum(case, "TracInCP", model, batch, [state], weight,
                           sample_wise_grads_per_batch=True)  # fmt: skip
            total.index_add_(0, batch, part)
        return _result(total)

    return explain


def _captum_checkpoints(kind: str, **options):
    """As documented: a checkpoint now and then stands for its steps, with all the samples."""

    def factory(case: Case):
        states = case.states[:-1][:: case.every]
        model = copy.deepcopy(case.model).eval()
        if kind == "TracInCPFast":  # takes the outputs of the last linear layer for the model's
            model = model[:-1]
            last = [module for module in model if isinstance(module, nn.Linear)][-1]
            options["final_fc_layer"] = last
        weight = case.rate * len(case.batches) / len(states) / len(case.x)
        everyone = torch.arange(len(case.x))
        return lambda: _result(_captum(case, kind, model, everyone, states, weight, **options))

    return factory


def dattri_steps(case: Case):
    """dattri's TracIn step by step, each with its own batch."""
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask
    from torch.utils.data import DataLoader

    model = copy.deepcopy(case.model).eval()

    def log_probability(parameters, data):
        x, target = data
        outputs = functional_call(model, parameters, (x[None],))
        return outputs.gather(1, target.view(1, 1)).sum()

    def loss(parameters, data):
        return -log_probability(parameters, data)

    def explain() -> dict:
        queries = TensorDataset(case.queries, case.outputs)
        asked = DataLoader(queries, batch_size=len(queries))
        total = case.nothing()
        for state, batch in zip(case.states[:-1], case.batches, strict=True):
            task = AttributionTask(loss, model, state, log_probability)
            weight = torch.tensor([case.rate / len(batch)])
            tracin = TracInAttributor(task, weight, normalized_grad=False)
            tracin.projector_kwargs = None  # whole gradients; the constructor cannot be told so
            train = DataLoader(TensorDataset(case.x[batch], case.y[batch]), batch_size=len(batch))
            total.index_add_(0, batch, -tracin.attribute(train, asked).double())
        return _result(total)

    return explain


METHODS = {
    "ours": _ours(nodes=1, tolerance=None),
    "ours-tolerance": _ours(),
    "ours-all-outputs": _ours(everything=True, nodes=1, tolerance=None),
    "captum-steps": captum_steps,
    "captum-tracincp": _captum_checkpoints("TracInCP", sample_wise_grads_per_batch=True),
    "captum-fast": _captum_checkpoints("TracInCPFast"),
    "dattri-steps": dattri_steps,
    "explaind": partial(explain_explaind.record, nodes=10),
    "explaind-1-node": partial(explain_explaind.record, nodes=1),
}
PEERS = tuple(name for name in METHODS if not name.startswith("ours"))


def versions(method: str) -> dict[str, str]:
    """Of torch, and of the package that a method uses."""
    package = method.partition("-")[0]
    names = ("torch",) if package == "ours" else ("torch", package)
    return {name: metadata.version(name) for name in names}
