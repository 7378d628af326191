"""Two classes in the plane: a ring around a disk, the inside and outside of an ellipse."""

import math

import torch

from pkbook.problems.data import arguments as check
from pkbook.problems.data.samples import Samples


def ring_and_disk(
    n: int = 600,
    *,
    disk_radius: float = 0.6,
    ring_radii: tuple[float, float] = (0.85, 0.95),
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Samples:
    r"""A ring of label +1 around a disk of label -1 (the paper's Figure 1).

    .. math::

        \text{disk: } |x| \le r_d, \qquad \text{ring: } r_0 \le |x| \le r_1,

    each class uniform in area. The paper gives no radii. With these the 100 Euclidean neighbours
    of a point among 600 share its label in about 0.75 of the cases: closeness in the plane mixes
    the classes, which is what the figure is about.

    Returns x [n, 2] and y [n, 1]. The classes alternate (even rows ring, odd rows disk), so that
    every slice is balanced. The points do not depend on ``dtype`` but for rounding.

    Args:
        n: number of points, at least 2.
        disk_radius: radius :math:`r_d` of the disk.
        ring_radii: inner and outer radius :math:`(r_0, r_1)`, :math:`r_d \le r_0 \le r_1`.
            Equal radii give a circle.
        generator: source of randomness on the CPU; None stands for a fresh one with seed 0.
        dtype: floating dtype of both tensors.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: fewer than two points, a radius that is not positive, radii out of order.

    >>> x, y = ring_and_disk(600)
    >>> bool((x[y[:, 0] < 0].norm(dim=1) <= 0.6).all()), int(y.sum())
    (True, 0)
    """
    if check.check_count("n", n) < 2:
        raise ValueError(f"n: expected at least 2, one for each class, came {n}; write n=600")
    disk_radius = check.check_positive("disk_radius", disk_radius)
    inner, outer = (
        check.check_positive("ring_radii", r) for r in check.check_pair("ring_radii", ring_radii)
    )
    if not disk_radius <= inner <= outer:
        raise ValueError(
            f"ring_radii: expected disk_radius <= inner <= outer, came {disk_radius}, {inner}, "
            f"{outer}; write for example disk_radius=0.6, ring_radii=(0.85, 0.95)"
        )
    check.check_generator(generator)
    check.check_dtype(dtype)
    draws = torch.rand(n, 2, generator=check.seeded(generator), dtype=torch.float64)
    # The area between two radii grows like the square of the radius.
    square = disk_radius**2 * draws[:, 0]
    square[0::2] = inner**2 + (outer**2 - inner**2) * draws[0::2, 0]
    angle = 2 * math.pi * draws[:, 1]
    x = square.sqrt()[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    y = torch.full((n, 1), -1.0, dtype=dtype)
    y[0::2] = 1.0
    return Samples(x.to(dtype), y)


def ellipse(
    n: int = 600,
    *,
    axes: tuple[float, float] = (1.0, 0.5),
    half_width: float = 1.25,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Samples:
    r"""Uniform points of a square, labelled by an ellipse (the paper's Section 5.2, Figure 3).

    .. math::

        y = \operatorname{sign}\left( (x_1/a)^2 + (x_2/b)^2 - 1 \right),

    -1 inside and +1 outside or on the ellipse. The inside holds :math:`\pi a b / (2w)^2` of the
    square :math:`[-w, w]^2`: a quarter with the values given here. The classes are drawn, not
    balanced.

    Returns x [n, 2] and y [n, 1].

    Args:
        n: number of points.
        axes: half axes :math:`(a, b)`, along :math:`x_1` and :math:`x_2`.
        half_width: half the side :math:`w` of the square; at least as large as both half axes.
        generator: source of randomness on the CPU; None stands for a fresh one with seed 0.
        dtype: floating dtype of both tensors.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a number that is not positive, or an ellipse that leaves the square.

    >>> x, y = ellipse(5)
    >>> x.shape, y.shape
    (torch.Size([5, 2]), torch.Size([5, 1]))
    """
    check.check_count("n", n)
    a, b = (check.check_positive("axes", axis) for axis in check.check_pair("axes", axes))
    half_width = check.check_positive("half_width", half_width)
    if max(a, b) > half_width:
        raise ValueError(
            f"half_width: expected at least the longer half axis {max(a, b)}, came {half_width}; "
            f"write half_width={1.25 * max(a, b)}"
        )
    check.check_generator(generator)
    check.check_dtype(dtype)
    draws = torch.rand(n, 2, generator=check.seeded(generator), dtype=torch.float64)
    x = (half_width * (2 * draws - 1)).to(dtype)
    # The label belongs to the rounded point, which is what the network sees.
    level = ((x.double() / torch.tensor([a, b], dtype=torch.float64)) ** 2).sum(1, keepdim=True)
    one = torch.ones(n, 1, dtype=dtype)
    return Samples(x, torch.where(level >= 1, one, -one))


def circle(
    n: int = 600,
    *,
    radius: float = 1.0,
    half_width: float = 1.25,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Samples:
    r"""Uniform points of a square, labelled by a circle: ``ellipse`` with two equal half axes.

    The isotropic task of the paper's Section 5.2. With the values given here half of the points
    lie inside. Returns, arguments and errors as for ``ellipse``.
    """
    radius = check.check_positive("radius", radius)
    return ellipse(
        n, axes=(radius, radius), half_width=half_width, generator=generator, dtype=dtype
    )
