"""Learning-rate schedules of torch.optim, stepped with the run and brought back with it."""

import warnings

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pkbook.runs.optimizers import apply_settings, settings_of


def require_schedule(scheduler: object, optimizer: Optimizer) -> LRScheduler | None:
    """Refuse what is not a schedule of this optimizer, or needs to be told a metric."""
    if scheduler is None:
        return None
    if not isinstance(scheduler, LRScheduler):
        raise TypeError(
            f"scheduler must be a torch.optim.lr_scheduler.LRScheduler, got "
            f"{type(scheduler).__name__}; step others yourself after run.step, the rates are "
            "recorded all the same"
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        raise TypeError(
            "scheduler ReduceLROnPlateau needs a metric that the run does not know; step it "
            "yourself after run.step, the rates are recorded all the same"
        )
    if scheduler.optimizer is not optimizer:
        raise ValueError("scheduler belongs to another optimizer than the run's")
    return scheduler


def advance(scheduler: LRScheduler | None) -> None:
    """Step a schedule; one that is interrupted (Ctrl-C, say) half-way is stepped anew."""
    if scheduler is None:
        return
    before, rates = scheduler.state_dict(), settings_of(scheduler.optimizer)
    try:
        scheduler.step()
    except BaseException:
        apply_settings(scheduler.optimizer, rates)
        scheduler.load_state_dict(before)
        scheduler.step()
        raise


def follow(scheduler: LRScheduler, optimizer: Optimizer, recorded: list[list[dict]]) -> None:
    """Bring a fresh schedule to the end of a recorded run; each step must say what it said then.

    ``ValueError`` naming the first step with another rate.
    """
    with warnings.catch_warnings():  # the optimizer's own steps were made elsewhere
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        for k, then in enumerate(recorded):
            now = settings_of(optimizer)
            if now != then:
                raise ValueError(
                    f"scheduler sets other hyperparameters at step {k} than were recorded: "
                    f"{now} against {then}; make it as for the first time"
                )
            scheduler.step()
