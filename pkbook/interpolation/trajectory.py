"""The reader's door to a recorded run: record it, then ask what its samples did."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from pkbook.interpolation.influence import influence as _influence
from pkbook.interpolation.interpolate import interpolate as _interpolate
from pkbook.interpolation.path_kernel import path_kernel as _path_kernel
from pkbook.runs.loops import division_of, uncompiled, unwrapped
from pkbook.runs.problem import Loss, Reduction
from pkbook.runs.recording import Recording, batches
from pkbook.runs.resuming import resumed
from pkbook.runs.retraining import retrained as _retrained
from pkbook.runs.reweighting import reweighted as _reweighted, without as _without
from pkbook.runs.sources import Collate

__all__ = ["Trajectory", "batches", "record"]


class Trajectory(Recording):
    r"""A recorded run :math:`\theta_0,\theta_1,\dots,\theta_K` of a model, a loss and an optimizer.

    Parameters
    ----------
    model
        any ``nn.Module`` returning ``[n]``, ``[n, C]``, ``[n, T, V]``, or a dictionary with such a
        tensor, named ``logits`` or the only one; or ``DistributedDataParallel`` of it, on each of
        the processes that train it (see Notes).
    loss
        for data that are pairs ``(x, y)``, a function of outputs and targets, such as those of
        :mod:`pkbook.losses` or ``torch.nn.CrossEntropyLoss()``.  For any data, a function
        ``loss(model, batch)`` that calls the model itself.  It gives one value per sample ``[n]``
        or one number; of a number, a sample's share is found at the outputs of the model.
    optimizer
        ``SGD``, ``RMSprop``, ``Adam``, ``AdamW``, ``Adagrad``, ``NAdam`` or ``RAdam`` of
        ``torch.optim``, with any options and parameter groups, or one of your own whose rule
        is told to ``pkbook.runs.register``.
    data
        the training set of ``N`` samples: a pair ``(x, y)`` of tensors; a dictionary, tuple or data
        class of tensors with ``N`` rows each; or a ``Dataset``, a list of samples, or anything with
        ``len`` and numbers in square brackets.  A ``Dataset`` may draw its samples at random
        (augmentation): each visit has a seed of its own, from which a replay draws them again.
    collate
        puts the samples of a ``Dataset`` together, as for a ``DataLoader``.
    reduction
        how the losses of a step make one number: ``"mean"`` over samples, then over micro-batches;
        ``"sum"``; or a function of a batch that gives its number of items, tokens say: the step
        then follows the sum over all items divided by their number.  With it, a loss of one number
        must be the mean over the items of its batch, and one of ``[n]`` sums over each sample's.
    folder
        where to keep the run; default in memory.  Where several processes train, one that all of
        them see; the first writes it.
    every
        steps from one checkpoint to the next, or ``"sqrt"`` or ``"log"`` where the number of
        steps :math:`K` is not known in advance; see the notes.
    seed
        from it each step draws its own seed, so that dropout masks can be replayed.
    scheduler
        a learning-rate schedule, stepped after each step and brought back by :meth:`open`.  One
        that the reader's own code steps is recorded as well.
    clip_norm, clip_value
        clip the gradient before each step, as ``clip_grad_norm_`` and ``clip_grad_value_`` of
        ``torch.nn.utils`` do.  Given the factor by which it was clipped, the step is a sum over
        samples.
    clipped
        whose gradients are clipped together: those of the ``"trained"`` parameters in the model's
        order; of ``"all"`` parameters of the model; or of the optimizer's ``"groups"``, in their
        order.  It decides the last bits of a norm.
    check
        make the first step, and now and then another one, again at once: what could not be
        replayed later (autocast around the step, hooks, random numbers of numpy, a loss that reads
        the model) is a :class:`pkbook.ReplayError` then and there, with its likely cause.
    background
        write checkpoints (but the first) in a thread while training goes on, one at a time; needs
        a ``folder``, and room for a copy of what moves.  What goes wrong in the thread is a
        ``StorageError`` of the next :meth:`step` or of :meth:`close`.

    Raises
    ------
    TypeError, ValueError
        for a model without trainable parameters, an optimizer whose steps are not linear in the
        gradients or that holds other parameters, data that are empty, of different lengths, not
        finite or on another device, and a loss that does not fit the outputs.

    Notes
    -----
    Layers that use batch statistics (BatchNorm in train mode) are recorded and explained: a
    sample's contribution is then that of its own loss, with its effect through the statistics; the
    running statistics, which the query sees, belong to no sample and are reported by themselves.

    A checkpoint holds the optimizer's state, and the parameters and buffers that are not bit for
    bit those of step 0.  A replay holds states of the trained parameters and all buffers.

    ============  ===========================  ==========================  =======================
    ``every``     checkpoints kept             states held by a replay     steps made by a replay
    ============  ===========================  ==========================  =======================
    a number s    :math:`K/s`                  s                           :math:`K`
    ``"sqrt"``    at most :math:`2\sqrt K+2`   :math:`\sqrt K`              :math:`K`
    ``"log"``     :math:`2+\log_2(K/50)`       :math:`2\sqrt L`             :math:`2K`
    ============  ===========================  ==========================  =======================

    ``"sqrt"`` drops every second checkpoint whenever there are more than :math:`2\sqrt K`.
    ``"log"`` makes one every 50 steps and keeps ever fewer of the earlier ones.  Up to
    :math:`L=K` steps lie between two of them: those are made once to keep a state every
    :math:`\sqrt L` steps in memory, and once more from these, and :meth:`model_at` may repeat as
    many.  A checkpoint is dropped only when the next one is on the disk.

    Several processes: with ``DistributedDataParallel`` every process makes the run with the same
    arguments and calls :meth:`step` with samples of its own.  The step follows what the processes
    share, the mean of their gradients (with ``reduction="sum"`` the sum over all samples, with a
    function the sum over all items by their number), and its record holds the samples of all as
    micro-batches, process by process.  So the folder is opened with the plain model in one process
    as well.  The replay of two processes is bit for bit; with more the sum is taken in another
    order, and the replay's distance is measured, as on another machine.  What fails on one process
    is an error on all: its own there, ``pkbook.RankError`` on the others.  BatchNorm in
    train mode, communication hooks and parameters that are split among the processes (FSDP,
    ``DTensor``) are refused.

    Examples
    --------
    >>> import torch
    >>> from pkbook.losses import squared
    >>> x = torch.tensor([[-1.0], [0.0], [1.0]])
    >>> line = torch.nn.Linear(1, 1)
    >>> sgd = torch.optim.SGD(line.parameters(), lr=0.5)
    >>> run = Trajectory(line, squared, sgd, (x, 2 * x))
    >>> for batch in batches(3, size=2, steps=40, seed=0):
    ...     _ = run.step(batch)
    >>> told = run.interpolate(torch.tensor([[3.0]]))
    >>> torch.allclose(told.contributions.sum(0), told.change, rtol=1e-4)
    True
    """

    # The functions themselves: ``run`` is their first argument, and their options are written once.
    interpolate = _interpolate
    path_kernel = _path_kernel
    influence = _influence
    reweighted = _reweighted
    without = _without
    retrained = _retrained


@contextmanager
def record(
    model: nn.Module,
    optimizer: Any,
    *,
    loss: Loss,
    data: Any,
    collate: Collate | None = None,
    reduction: Reduction = "mean",
    folder: str | Path | None = None,
    every: int | str = 50,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    scaler: Any = None,
    check: bool = True,
    resume: int | None = None,
) -> Iterator[Trajectory]:
    r"""Record a training loop that you do not own, by watching its model and its optimizer.

    The loop goes on calling ``model``, ``backward`` and ``optimizer.step()``.  Which samples each
    batch is made of is told; random numbers, autocast and hyperparameters are seen.

    Parameters
    ----------
    model, optimizer
        those of the loop.  What Accelerate put around an optimizer is taken off, and its division
        of accumulated losses and its loss scale are known from it; a compiled model is replayed
        uncompiled, where that gives the same bits.  With ``DistributedDataParallel`` each process
        records its own loop and tells its own samples; the record is that of all, as for
        :class:`Trajectory`.  Batches that are given to :meth:`Trajectory.saw` need a ``folder``
        then.
    loss
        the loss that the loop follows, of ``(outputs, targets)`` or of ``(model, batch)``, as for
        :class:`Trajectory`; a step made with it must come to the same parameters bit for bit.
    data, collate, reduction, folder, every, check
        as for :class:`Trajectory`.
    clip_norm, clip_value
        what the loop clips its gradients to before each step.
    scaler
        the ``GradScaler`` of the loop; steps that it leaves out are left out of the record.
    resume
        how many steps the loop has made already, where it goes on from a checkpoint of its own:
        the record in ``folder`` goes on with it.  It must have been in the same state, bit for bit,
        after so many steps; what it holds beyond them is dropped, as the loop makes it again.

    Yields
    ------
    Trajectory
        tell it the samples with :meth:`Trajectory.saw`, once a batch, or give its
        :meth:`Trajectory.watch` of a batch sampler to the ``DataLoader``.

    Raises
    ------
    TypeError, ValueError
        as :class:`Trajectory`; at a step whose samples nobody has told.
    ReplayError
        at the first step where it cannot be made again from its record; with ``resume``, where the
        loop goes on from another state.

    Examples
    --------
    >>> import torch
    >>> x = torch.linspace(-1, 1, 8)[:, None]
    >>> line = torch.nn.Linear(1, 1)
    >>> sgd = torch.optim.SGD(line.parameters(), lr=0.3)
    >>> mse = torch.nn.MSELoss()
    >>> with record(line, sgd, loss=mse, data=(x, 2 * x)) as run:
    ...     for k in range(6):                        # somebody else's loop
    ...         numbers = torch.arange(k, k + 3)
    ...         run.saw(numbers)                      # the only line for us
    ...         sgd.zero_grad()
    ...         mse(line(x[numbers]), 2 * x[numbers]).backward()
    ...         sgd.step()
    >>> len(run), run.verify()
    (6, 0.0)
    >>> bool(run.interpolate(torch.tensor([[3.0]])).completeness < 1e-3)
    True
    """
    parts = uncompiled(model), loss, unwrapped(optimizer), data
    options = {
        "collate": collate,
        "reduction": reduction,
        "clip_norm": clip_norm,
        "clip_value": clip_value,
        "check": check,
    }
    if resume is None:
        run = Trajectory(*parts, folder=folder, every=every, **options)
    else:
        run = resumed(Trajectory, resume, folder, *parts, **options)
    if scaler is None:
        scaler = getattr(optimizer, "scaler", None)
    divided_by = division_of(optimizer)
    run.follow_loop(folder, scaler, divided_by=divided_by, called=model)
    whole = False
    try:
        yield run
        whole = True
    finally:
        run.end_loop(whole)
