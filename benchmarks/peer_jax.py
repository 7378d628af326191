"""neural-tangents in its own environment: ``PYTHON benchmarks/peer_jax.py REQUEST``.

Needs only jax and neural-tangents.  Reads the network and the inputs from a ``.npz`` file; then
answers every line ``run`` on its standard input with one line of JSON.  The result of the first
run goes to ``result.npy`` beside that file.  With ``"memory": true`` it measures one run and ends.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def limit_threads(threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def network(layers: list[dict]):
    """The function f(parameters, x) of a plain chain of layers, images as [n, c, h, w]."""
    import jax
    import jax.numpy as jnp

    def pool(x, k, fill, combine):
        return jax.lax.reduce_window(x, fill, combine, (1, 1, k, k), (1, 1, k, k), "VALID")

    def apply(parameters, x):
        for k, layer in enumerate(layers):
            kind = layer["kind"]
            if kind == "linear":
                w, b = parameters[str(k)]
                x = x @ w.T + b
            elif kind == "conv":
                w, b = parameters[str(k)]
                pads = [(p, p) for p in layer["padding"]]
                numbers = ("NCHW", "OIHW", "NCHW")
                x = jax.lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=numbers)
                x = x + b[None, :, None, None]
            elif kind == "flatten":
                x = x.reshape(x.shape[0], -1)
            elif kind == "pool":
                x = pool(x, layer["size"], -jnp.inf, jax.lax.max)
            else:
                x = {"tanh": jnp.tanh, "relu": jax.nn.relu}[kind](x)
        return x

    return apply


def prepare(request: dict, data, rows: int | None = None):
    """A function without arguments that computes the kernel of (the first rows of) the case."""
    import jax
    import neural_tangents as nt

    names = {
        "nt-jacobian": nt.NtkImplementation.JACOBIAN_CONTRACTION,
        "nt-products": nt.NtkImplementation.NTK_VECTOR_PRODUCTS,
        "nt-structured": nt.NtkImplementation.STRUCTURED_DERIVATIVES,
    }
    layers = request["layers"]
    parameters = {
        str(k): (jax.numpy.asarray(data[f"w{k}"]), jax.numpy.asarray(data[f"b{k}"]))
        for k, layer in enumerate(layers) if layer["kind"] in ("linear", "conv")
    }  # fmt: skip
    kernel = nt.empirical_ntk_fn(
        network(layers),
        trace_axes=(-1,) if request["reduce"] == "trace" else (),
        vmap_axes=0,
        implementation=names[request["method"]],
    )
    second = "x2" in data
    whole = jax.jit(lambda a, b, p: kernel(a, b, p)) if second else None
    alone = jax.jit(lambda a, p: kernel(a, None, p))
    x1 = jax.numpy.asarray(data["x1"][:rows])
    x2 = jax.numpy.asarray(data["x2"][:rows]) if second else None
    scale = request["outputs"] if request["reduce"] == "trace" else 1  # theirs is the mean

    def once():
        k = whole(x1, x2, parameters) if second else alone(x1, parameters)
        return (k * scale).block_until_ready()

    return once


def memory_of(request: dict, data) -> dict:
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from benchmarks.memory import MEGA, baseline, peak

    prepare(request, data, 3)()
    run = prepare(request, data)
    held = baseline()
    start = time.perf_counter()
    run()
    seconds, top = time.perf_counter() - start, peak()
    return {
        "megabytes": (top - held) / MEGA, "process_megabytes": top / MEGA, "seconds": seconds,
    }  # fmt: skip


def main(request: dict) -> None:
    limit_threads(request["threads"])
    import jax
    import neural_tangents as nt

    path = Path(request["data"])
    data = dict(np.load(path))
    if request.get("memory"):
        print(json.dumps(memory_of(request, data)))
        return
    run = prepare(request, data)
    start = time.perf_counter()
    np.save(path.parent / "result.npy", np.asarray(run()))
    versions = {"neural-tangents": nt.__version__, "jax": jax.__version__}
    first = time.perf_counter() - start
    print(json.dumps({"versions": versions, "compiled_in": first}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
