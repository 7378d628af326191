"""Turn the axes of an ellipse, and see who still follows it.

On the left the RBF machine on the inputs, then linear machines on tangent features of the
untrained and of the trained network. The explorer shows an E4 result that is there already, so it
trains nothing.
"""

from pkbook.lab.experiments import separability
from pkbook.lab.experiments.figures import separability as separability_figures
from pkbook.lab.experiments.separability import Case, Result
from pkbook.lab.explorers.base import Explorer
from pkbook.lab.explorers.controls import Control

WAYS = {"plain": "scikit-learn's defaults", "tuned": "cross-validation"}


def words(result: Result, ratio: float, way: str) -> str:
    """What is to be seen, in numbers."""
    case = Case(separability.thin(ratio), result.config.swept)
    outcome = result.outcomes[case]
    shares = {
        kind: outcome.of("area", f"{kind}, {way}")[0].item() / case.area
        for kind in separability_figures.TITLES
    }
    shape = "circle" if ratio == 1 else f"ellipse {ratio:g} times as long as wide"
    return (
        f"{case.samples} samples of a {shape}, penalties by {WAYS[way]}. The area astray is "
        f"{shares['RBF']:.0%} of the set for the RBF machine, {shares['untrained']:.0%} for "
        f"features of the untrained network, {shares['tangent']:.0%} for those of the trained one."
    ).replace("a ellipse", "an ellipse")


def ellipses(result: Result) -> Explorer:
    """Axes of the ellipse and the way penalties are chosen: three boundaries of the first seed.

    Takes what `pkbook.experiments.separability.run` returned, with at least two ratios.
    """
    ratios = result.config.ratios
    return Explorer(
        {
            "ratio": Control("longer over shorter axis", ratios),
            "way": Control(
                "penalties by", tuple(WAYS), initial="tuned", formatter=WAYS.__getitem__
            ),
        },
        draw=lambda ratio, way: separability_figures.trio(
            result, Case(separability.thin(ratio), result.config.swept), way
        ),
        alt=lambda ratio, way: words(result, ratio, way),
    )
