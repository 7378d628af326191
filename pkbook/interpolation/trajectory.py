"""The reader's door to a recorded run: record it, then ask what its samples did."""

from pkbook.interpolation.interpolate import interpolate as _interpolate
from pkbook.interpolation.path_kernel import path_kernel as _path_kernel
from pkbook.runs.recording import Recording, batches

__all__ = ["Trajectory", "batches"]


class Trajectory(Recording):
    r"""A recorded run :math:`\theta_0,\theta_1,\dots,\theta_K` of a model, a loss and an optimizer.

    Parameters
    ----------
    model
        any ``nn.Module`` returning ``[n, C]``.
    loss
        a function of outputs and targets giving one value per sample ``[n]`` (averaged over
        the batch) or one scalar (used as it is), such as those of :mod:`pkbook.losses` or
        ``torch.nn.CrossEntropyLoss()``.
    optimizer
        ``SGD``, ``RMSprop``, ``Adam``, ``AdamW``, ``Adagrad``, ``NAdam`` or ``RAdam`` of
        ``torch.optim``, with any options and parameter groups, or one of your own whose rule
        is told to ``pkbook.runs.register``.
    data
        the training set ``(x, y)``, ``N`` samples each.
    folder
        where to keep the run; default in memory.
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
    ``"sqrt"``    at most :math:`2\sqrt K`+2   :math:`\sqrt K`              :math:`K`
    ``"log"``     :math:`2+\log_2(K/50)`       :math:`2\sqrt L`             :math:`2K`
    ============  ===========================  ==========================  =======================

    ``"sqrt"`` drops every second checkpoint whenever there are more than :math:`2\sqrt K`.
    ``"log"`` makes one every 50 steps and keeps ever fewer of the earlier ones.  Up to
    :math:`L=K` steps lie between two of them: those are made once to keep a state every
    :math:`\sqrt L` steps in memory, and once more from these, and :meth:`model_at` may repeat as
    many.  A checkpoint is dropped only when the next one is on the disk.

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
