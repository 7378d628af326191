"""How the time to explain grows with the run, the data, the queries and the network."""

from dataclasses import replace

from benchmarks.explain_setting import Setting, build, parameters, record, winners
from benchmarks.growth import slope
from benchmarks.timing import Contestant, clocked, race, summary

SIZES = {
    "steps": (50, 100, 200, 400),
    "samples": (1000, 2000, 4000, 8000),
    "queries": (25, 50, 100, 200),
    "width": (64, 128, 256, 512),
}


def growth(setting: Setting, optimizers: tuple[str, ...], steps: int, repeats: int,
           factor: float) -> dict:  # fmt: skip
    """Per optimizer and series: sizes, seconds and the exponent of a power law.

    ``steps`` is the length of the runs where another size grows.  The width is that of an MLP; its
    exponent is against the number of parameters.
    """
    found = {}
    for name in optimizers:
        for field, sizes in SIZES.items():
            network = "mlp" if field == "width" else "cnn"
            base = replace(setting, optimizer=name, network=network, steps=steps)
            sizes = [max(2, round(factor * size)) for size in sizes]
            batch = min(base.batch, sizes[0]) if field == "samples" else base.batch
            settings = [replace(base, **{field: size, "batch": batch}) for size in sizes]
            found[f"{name} {field}"] = _series(settings, field, sizes, repeats)
    return found


def _series(settings: list[Setting], field: str, sizes: list[int], repeats: int) -> dict:
    runners, abscissa = [], sizes
    for setting in settings:
        problem = build(setting)
        run = record(problem)
        outputs = winners(problem.model, problem.queries)
        runners.append(Contestant(str(setting), clocked(_explain(run, problem.queries, outputs))))
    if field == "width":
        abscissa = [parameters(build(setting).model) for setting in settings]
    race(runners, repeats, seconds=1e9)
    times = [summary(runner.times)["median"] for runner in runners]
    return {"sizes": abscissa, "seconds": times, "slope": slope(abscissa, times)}


def _explain(run, queries, outputs):
    return lambda: run.interpolate(queries, outputs=outputs, nodes=1, tolerance=None)
