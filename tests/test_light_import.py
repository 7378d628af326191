"""The core of the package works where nothing is installed that only the book needs."""

import subprocess
import sys

HEAVY = ("matplotlib", "IPython", "ipywidgets", "sklearn", "scipy", "PIL", "pooch", "umap",
         "seaborn", "pandas", "transformers", "accelerate", "lightning")  # fmt: skip
CORE = f"""
import sys
sys.modules |= dict.fromkeys({HEAVY})  # as if they were not installed
import torch
import pkbook as pk

net = pk.models.mlp(2, 8, 1, seed=0)
x, y = torch.randn(6, 2), torch.randn(6, 1)
assert pk.gradient_kernel(net, x).shape == (6, 6)
sgd = torch.optim.SGD(net.parameters(), lr=0.1)
run = pk.Trajectory(net, pk.losses.squared, sgd, (x, y))
for batch in pk.batches(6, size=2, steps=5, seed=0):
    run.step(batch)
assert run.interpolate(x[:1]).completeness < 1e-3
print("done")
"""
MISSING = f"""
import sys
sys.modules |= dict.fromkeys({HEAVY})
import pkbook as pk
for part in ("plots", "explorers", "function_space", "diffusion_limit"):
    try:
        getattr(pk, part)
    except ImportError as error:
        print(error)
try:
    from pkbook import plots
except ImportError as error:
    print(error)
try:
    pk.data.printed_glyphs("0")
except ImportError as error:
    print(error)
assert pk.data.ring_and_disk(6).x.shape == (6, 2)
"""
LATER = """
import pkbook as pk
assert {"data", "plots", "explorers", "generative"} <= set(dir(pk))
print(pk.data.ring_and_disk.__name__, pk.explorers.ellipses.__name__)
try:
    pk.nothing
except AttributeError as error:
    print(error)
"""


def output_of(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_core_needs_none_of_what_the_book_needs():
    assert output_of(CORE) == ["done"]


def test_a_part_that_misses_something_says_what_to_install():
    told = output_of(MISSING)
    advice = "write pip install 'pkbook[lab]'"
    assert told[0] == f"pkbook.plots needs matplotlib; {advice}"
    assert told[1].startswith("pkbook.explorers needs ")
    assert told[2:4] == [f"pkbook.{n} needs scipy; {advice}"
                         for n in ("function_space", "diffusion_limit")]  # fmt: skip
    assert told[4:] == [told[0], f"pk.data.printed_glyphs needs matplotlib; {advice}"]


def test_the_other_parts_come_when_they_are_asked_for():
    names, error = output_of(LATER)
    assert names == "ring_and_disk ellipses"
    assert error == "module 'pkbook' has no attribute 'nothing'"
