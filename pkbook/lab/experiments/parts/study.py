"""One training that accounts are asked about."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from pkbook.kernels import of
from pkbook.kernels.features import tangent_features
from pkbook.problems import losses
from pkbook.runs.recording import Recording


@dataclass(frozen=True)
class Study:
    """One training, what it was trained on, and the queries that are asked about."""

    run: Recording
    x: Tensor
    y: Tensor
    queries: Tensor
    labels: Tensor
    epoch: int
    """Steps in an epoch."""
    rate: float
    """The learning rate of all steps."""
    seed: int = 0

    @cached_property
    def end(self) -> nn.Sequential:
        """The trained network, in eval mode."""
        model = self.run.model_at(len(self.run))
        assert isinstance(model, nn.Sequential)
        return model

    @cached_property
    def asked(self) -> of.Of:
        """What the accounts are asked about: the log-odds of the queries' labels."""
        return of.log_odds(self.labels)

    def losses_of(self, model: nn.Module) -> Tensor:
        """Gradients of the training samples' losses, ``[N, P]``."""
        asked = of.loss_of(losses.cross_entropy, self.y)
        return tangent_features(model, self.x, of=asked)[:, 0]

    def odds(self, model: nn.Module) -> Tensor:
        """Gradients of the log-odds at the queries, ``[m, P]``."""
        return tangent_features(model, self.queries, of=self.asked)[:, 0]

    def signs(self) -> Tensor:
        """1 for a sample of a query's class, else -1, ``[N, m]``."""
        return 2.0 * (self.y[:, None] == self.labels) - 1
