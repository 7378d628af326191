"""EK-FAC influence by kronfluence, which is installed on request.

Source: Grosse et al. 2023, *Studying Large Language Model Generalization with Influence Functions*.
"""

from tempfile import TemporaryDirectory

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pkbook.basics.randomness import seeded
from pkbook.kernels import of
from pkbook.lab.experiments.parts.study import Study

try:
    # Installed on request, so the type checker may not find it.
    from kronfluence.analyzer import Analyzer, prepare_model  # pyright: ignore[reportMissingImports]
    from kronfluence.arguments import (  # pyright: ignore[reportMissingImports]
        FactorArguments,
        ScoreArguments,
    )
    from kronfluence.task import Task  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:
    raise ImportError(
        "EK-FAC influence needs kronfluence; write pip install 'pkbook[ekfac]'"
    ) from error

BATCH = 100


class Digits(Task):
    """The loss of the training, and the log-odds that are asked about."""

    def compute_train_loss(self, batch, model: nn.Module, sample: bool = False) -> Tensor:
        x, y = batch
        outputs = model(x)
        if sample:  # of the network's own labels, for the true Fisher matrix
            y = outputs.detach().softmax(1).multinomial(1)[:, 0]
        return F.cross_entropy(outputs, y, reduction="sum")

    def compute_measurement(self, batch, model: nn.Module) -> Tensor:
        x, y = batch
        return of.log_odds(y)(model, x).sum()


def scores(study: Study) -> Tensor:
    """Scores ``[N, m]`` with the sign of the other accounts: large speaks for the label."""
    task = Digits()
    model = prepare_model(study.end, task)
    with TemporaryDirectory() as folder, seeded(study.seed, study.x.device):
        analyzer = Analyzer(
            "study", model, task, cpu=True, output_dir=folder, disable_tqdm=True, profile=False
        )
        analyzer.fit_all_factors(
            "ekfac",
            TensorDataset(study.x, study.y),
            per_device_batch_size=BATCH,
            factor_args=FactorArguments(strategy="ekfac"),
        )
        analyzer.compute_pairwise_scores(
            "scores",
            "ekfac",
            TensorDataset(study.queries, study.labels),
            TensorDataset(study.x, study.y),
            per_device_query_batch_size=BATCH,
            per_device_train_batch_size=BATCH,
            score_args=ScoreArguments(damping_factor=None),  # a tenth of the mean eigenvalue
        )
        found = analyzer.load_pairwise_scores("scores")["all_modules"]
    return -found.T.contiguous()
