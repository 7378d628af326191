"""Choose an architecture and a share of random labels, and watch accuracy and alignment."""

from matplotlib.figure import Figure

from pkbook.lab.experiments import alignment as experiment
from pkbook.lab.experiments.figures import alignment as figures
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control
from pkbook.lab.plots import figure, style


@style()
def draw(run: experiment.Run) -> Figure:
    """Accuracy above, alignment of the normalised kernel below, over the same steps."""
    fig, (top, bottom) = figure(2, 1, width=4.5, height=5.4, sharex=True)
    figures.panel(top, run.steps, figures.accuracies([run]))
    figures.panel(bottom, run.steps, figures.alignments([run], normalised=True))
    top.set(ylabel="accuracy", ylim=(0, 1.03))
    top.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    bottom.set(xlabel="step", ylabel="CKA with the labels", ylim=(-0.05, 0.65))
    return fig


def words(run: experiment.Run) -> str:
    """What is to be seen, in numbers."""
    seen, own = (run.alignment(where, normalised=True) for where in ("held-out", "training"))
    best = int(run.accuracy.argmax())
    text = (
        f"{run.architecture}, {run.share:.0%} random labels. Accuracy on the training images goes "
        f"from {run.fitted[0]:.0%} to {run.fitted[-1]:.0%}, on held-out images from "
        f"{run.accuracy[0]:.0%} to {run.accuracy[-1]:.0%}. CKA with the training labels goes from "
        f"{own[0]:.2f} to {own[-1]:.2f}, on held-out images from {seen[0]:.2f} to {seen[-1]:.2f}."
    )
    if run.accuracy[best] - run.accuracy[-1] > 0.05:
        text += (
            f" Held-out accuracy was best after step {run.steps[best]}, {run.accuracy[best]:.0%}; "
            f"the CKA there was {seen[best]:.2f}."
        )
    return text


def alignment(result: experiment.Result | None = None) -> Explorer:
    """Architecture and share of random labels: accuracy and alignment along training.

    Shows the first seed of ``result``, a run of `pkbook.experiments.alignment`. Without one the
    quick preset runs here with a single seed, about ten seconds. Raises TypeError for anything
    else, ValueError for a result with one architecture or one share, which is nothing to choose.
    """
    if result is None:
        quick = experiment.Config.quick()
        result = experiment.run(experiment.Config.quick(seeds=quick.seeds[:1], sizes=()))
    if not isinstance(result, experiment.Result):
        raise TypeError(
            f"result must be what pkbook.experiments.alignment.run returns, got "
            f"{type(result).__name__}"
        )

    def chosen(architecture: str, share: float) -> experiment.Run:
        return result.of(architecture, share)[0]

    config = result.config
    shares = sorted(config.shares)
    return Explorer(
        {
            "architecture": Control("architecture", config.architectures),
            "share": Control("random labels", shares, formatter=lambda share: f"{share:.0%}"),
        },
        draw=lambda architecture, share: draw(chosen(architecture, share)),
        alt=lambda architecture, share: words(chosen(architecture, share)),
    )
