r"""C3: do a GAN's points oscillate?  (arXiv 2603.13872, Section 4.2.)

The paper says that corrections coupled through the discriminator make GANs prone to oscillation,
and that those of a diffusion model are local.  A latent is followed along training: at every look
its point lies in a mode of the ring or between modes.  It *comes back* if it is seen in a mode,
then in another one, then in the first again.  The same is asked of a diffusion model of the same
ring, whose points start from fixed noise at every look.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

import pkbook as pk
from pkbook import generative as gen
from pkbook.basics.checks import require_whole
from pkbook.lab.experiments import mode_collapse
from pkbook.lab.experiments.machinery.claims import by_seed
from pkbook.lab.experiments.machinery.results import Numbers
from pkbook.lab.experiments.parts.coming_back import coming_back

LEVELS, SAMPLES, BATCH = 40, 500, 128  # of noise; of the data; rows of a step
STRETCH = 2**0.5  # gives the ring's coordinates a variance of about one


@dataclass(frozen=True)
class Denoised:
    """A diffusion model along its training."""

    places: Tensor
    """Generated points at every look, from the same noise, ``[looks + 1, m, 2]``."""
    ring: gen.GaussianMixture


def diffusion(
    seed: int, *, looks: int = 20, steps: int = 400, points: int = 100, rate: float = 3e-3
) -> Denoised:
    """Train a diffusion model of `mode_collapse`'s ring by Adam and sample at every look.

    The looks are spread evenly over the steps, as those of the GAN are over its own. ValueError
    for counts that are no whole numbers from 1 on.
    """
    for name, value in (("looks", looks), ("steps", steps), ("points", points)):
        require_whole(value, name)
    draw = torch.Generator().manual_seed(seed)
    ring = gen.ring_of_gaussians(8, scale=mode_collapse.Config().scale)
    schedule = gen.linear_schedule(LEVELS)
    table = gen.sinusoidal(LEVELS, 32)
    model = gen.NoisePredictor(2, table, hidden=(64, 64), seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    data = gen.noised(ring.sample(SAMPLES, generator=draw) * STRETCH, schedule, generator=draw)
    z, noise = data.pair
    start, places = torch.randn(points, 2, generator=draw), []
    for step in range(steps + 1):
        if step % (steps // looks) == 0:
            again = torch.Generator().manual_seed(seed)  # the same noise at every look
            found = gen.reverse(model, schedule, start, generator=again).generated
            places.append(found / STRETCH)
        rows = torch.randint(len(z), (BATCH,), generator=draw)
        optimizer.zero_grad()
        pk.losses.squared(model(z[rows]), noise[rows]).mean().backward()
        optimizer.step()
    return Denoised(torch.stack(places), ring)


def findings(
    result: mode_collapse.Result, denoised: list[Denoised]
) -> dict[str, dict[str, Numbers]]:
    """C3's numbers, one a seed; the diffusion models are those of the first seeds."""
    calm = torch.tensor([coming_back(run.places, run.ring) for run in denoised])
    wild, healthy = (result.returned[name] for name in ("collapsing", "healthy"))
    return {
        "C3": {
            "a GAN that loses modes": by_seed("C3", [wild, wild[: len(calm)] - calm, calm]),
            "a GAN that keeps them": by_seed("C3", [healthy, healthy[: len(calm)] - calm, calm]),
        }
    }
