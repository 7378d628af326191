"""Printed glyphs against two other readers of fonts: fontTools (names) and Pillow (shapes)."""

import string
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from pkbook.problems.data import mnist, printed_faces, printed_glyphs

FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
CHARACTERS = string.digits + string.ascii_letters
LETTERS = "0123456789ABCDEFGHJK"  # without I, which some faces draw nearly like 1
NAMES = dict(
    zip(string.digits, "zero one two three four five six seven eight nine".split(), strict=True)
)


@pytest.fixture(scope="module")
def everything():
    return printed_glyphs(CHARACTERS, dtype=torch.float64)


def centres(x):
    places = torch.arange(28, dtype=torch.float64)
    mass = x.sum((1, 2, 3))
    return torch.stack([(x.sum((1, 3)) * places).sum(1), (x.sum((1, 2)) * places).sum(1)]) / mass


def test_ten_faces_and_more():
    assert len(set(printed_faces)) == len(printed_faces) == 21
    families = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIX", "cmr", "cmss", "cmtt")
    assert all(any(face.startswith(f) for face in printed_faces[:10]) for f in families)


@pytest.mark.parametrize("face", printed_faces)
def test_the_font_names_the_glyph_as_its_character(face):
    with TTFont(FONTS / f"{face}.ttf") as font:
        names = font.getBestCmap()
        for character in CHARACTERS:
            assert names[ord(character)] == NAMES.get(character, character)


def test_shapes_order_and_range(everything):
    n = len(printed_faces)
    assert everything.x.shape == (62 * n, 1, 28, 28)
    assert everything.y.tolist() == [i for i in range(62) for _ in range(n)]
    assert everything.x.min() == 0
    assert 0.99 < everything.x.max() <= 1
    part = printed_glyphs("B7", faces=("cmtt10", "DejaVuSans"))
    assert part.x.dtype == torch.float32
    row = CHARACTERS.index("7") * n + printed_faces.index("cmtt10")
    torch.testing.assert_close(part.x[2], everything.x[row].float())


def test_longer_side_is_twenty_pixels(everything):
    """20 pixels of ink reach over 20 to 22 pixels: an edge may fall inside one at either end."""
    places = torch.arange(28)
    longer = []
    for image in everything.x[:, 0] > 0:
        extents = [places[image.any(axis)].max() - places[image.any(axis)].min() for axis in (0, 1)]
        longer.append(int(max(extents)) + 1)
    assert set(longer) <= {20, 21, 22}


def test_centred_where_mnist_is(everything):
    """MNIST's digits have their mean centre of mass at pixel (14, 14).

    A pixel hides how its ink is spread, so a centre read from pixels is off by a few 0.01.
    """
    handwritten = centres(mnist(dtype=torch.float64).x).mean(1)
    assert (handwritten - 14).abs().max() < 0.02
    away = (centres(everything.x) - 14).abs().amax(0)
    moved_back = away > 0.05
    assert away.max() < 0.5
    assert 0 < moved_back.double().mean() < 0.02
    rows, columns = everything.x.amax((1, 3)), everything.x.amax((1, 2))
    border = torch.stack([rows[:, 0], rows[:, -1], columns[:, 0], columns[:, -1]]).amax(0)
    assert (border[moved_back] > 0).all()


def pillow_image(character, face):
    """The same layout by another route: Pillow's drawing, its resampling, whole-pixel shifts."""
    font = ImageFont.truetype(str(FONTS / f"{face}.ttf"), 400)
    page = Image.new("L", (1000, 1000))
    ImageDraw.Draw(page).text((300, 200), character, fill=255, font=font)
    drawing = page.crop(page.getbbox())
    scale = 20 / max(drawing.size)
    size = [max(1, round(side * scale)) for side in drawing.size]
    small = np.asarray(drawing.resize(size, Image.Resampling.BOX), dtype=float) / 255
    big = np.zeros((60, 60))
    big[20 : 20 + small.shape[0], 20 : 20 + small.shape[1]] = small
    centre = [round((big.sum(1 - a) * np.arange(60)).sum() / big.sum()) for a in (0, 1)]
    return big[centre[0] - 14 : centre[0] + 14, centre[1] - 14 : centre[1] + 14]


@pytest.mark.parametrize("face", printed_faces)
def test_agrees_with_pillow(face):
    """Blurred, so that half a pixel of shift counts little; a wrong glyph would stand out."""
    ours = printed_glyphs(LETTERS, faces=(face,)).x
    theirs = torch.tensor(np.stack([pillow_image(c, face) for c in LETTERS]))
    flat = [
        torch.nn.functional.avg_pool2d(x, 3, 1, 1).flatten(1)
        for x in (ours, theirs[:, None].float())
    ]
    a, b = (f - f.mean(1, keepdim=True) for f in flat)
    similarity = torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(b).T
    assert similarity.diagonal().min() > 0.9
    assert torch.equal(similarity.argmax(1), torch.arange(20))


def test_no_ink_is_lost(everything):
    """The sum of the pixels is that of the large drawing over the square of the scale."""
    from pkbook.problems.data.glyphs import _draw

    for row in range(0, len(everything.x), 37):
        character = CHARACTERS[int(everything.y[row])]
        drawing = _draw(character, printed_faces[row % len(printed_faces)])
        rows, columns = np.flatnonzero(drawing.any(1)), np.flatnonzero(drawing.any(0))
        side = max(np.ptp(rows), np.ptp(columns)) + 1
        expected = drawing.sum() * (20 / side) ** 2
        assert everything.x[row].sum().item() == pytest.approx(expected, rel=1e-9)


def test_kept_images_are_not_handed_out():
    x, _ = printed_glyphs("5", faces=("cmr10",))
    x.fill_(7.0)
    assert printed_glyphs("5", faces=("cmr10",)).x.max() <= 1
