"""Printed digits and letters from the fonts that travel with matplotlib, laid out like MNIST."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from pkbook.basics.extras import needs_lab
from pkbook.problems.data import arguments as check
from pkbook.problems.data.samples import Samples

# The first ten cover every family; file names without .ttf.
printed_faces = (
    "DejaVuSans",
    "DejaVuSerif",
    "DejaVuSansMono",
    "STIXGeneral",
    "cmr10",
    "cmss10",
    "cmtt10",
    "cmti10",
    "DejaVuSans-Bold",
    "STIXGeneralItalic",
    "cmb10",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Bold",
    "STIXGeneralBol",
    "DejaVuSans-Oblique",
    "DejaVuSerif-Italic",
    "DejaVuSansMono-Oblique",
    "STIXGeneralBolIta",
    "DejaVuSans-BoldOblique",
    "DejaVuSerif-BoldItalic",
    "DejaVuSansMono-BoldOblique",
)
PIXELS = 28  # side of an MNIST image
BOX = 20  # longer side of a digit inside it
CENTRE = 14.5  # where the centre of mass goes: the middle of pixel 14
FINE = 400  # size in pixels at which a glyph is drawn before it is averaged down


def printed_glyphs(
    characters: str = "0123456789",
    *,
    faces: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Samples:
    """Printed characters, white on black, sized and centred as MNIST's digits are.

    Each glyph is drawn large, scaled so that its longer side is 20 pixels, and moved so that its
    centre of mass lies in the middle of pixel (14, 14), counted from 0, which is where MNIST's
    digits have theirs. A few top-heavy glyphs ("7", "T") would lose ink at the border that way;
    they are moved back by the fraction of a pixel that keeps them whole. A pixel is the mean of
    the large drawing over its square.

    Returns x [n, 1, 28, 28] with values in [0, 1] and y int64 [n], the index into
    ``characters``. Rows are ordered by character, then by face; n is the product of the two
    numbers.

    Args:
        characters: ASCII digits and letters, each once. The paper's unseen letters are
            "ABCDEFGHIJ".
        faces: names out of ``printed_faces``, each once; None for all 21. The first ten of them
            cover every family.
        dtype: floating dtype of x.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: nothing asked for, a character or face named twice, a character that is not
            an ASCII digit or letter (the mathematical fonts put other glyphs in their places),
            or an unknown face.

    Source: fonts in matplotlib: DejaVu, STIX, and Computer Modern (BaKoMa).

    >>> x, y = printed_glyphs("AB", faces=("cmr10", "DejaVuSans"))
    >>> x.shape, y.tolist()
    (torch.Size([4, 1, 28, 28]), [0, 0, 1, 1])
    """
    _check_characters(characters)
    names = printed_faces if faces is None else _check_faces(faces)
    check.check_dtype(dtype)
    images = np.stack([_glyph(character, name) for character in characters for name in names])
    y = torch.arange(len(characters)).repeat_interleave(len(names))
    return Samples(torch.from_numpy(images)[:, None].to(dtype), y)


@lru_cache(maxsize=4096)
def _glyph(character: str, face: str) -> np.ndarray:
    """One image float64 [28, 28], read-only since it is kept."""
    image = _lay_out(_draw(character, face))
    image.flags.writeable = False
    return image


def _draw(character: str, face: str) -> np.ndarray:
    """A large antialiased drawing in [0, 1], [height, width]."""
    with needs_lab("pk.data.printed_glyphs"):
        import matplotlib
        from matplotlib.ft2font import FT2Font

    font = FT2Font(str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")))
    font.set_size(FINE, 72)  # at 72 dots an inch a point is a pixel
    font.set_text(character)
    font.draw_glyphs_to_bitmap(antialiased=True)
    return np.asarray(font.get_image(), dtype=np.float64) / 255


def _lay_out(drawing: np.ndarray) -> np.ndarray:
    """The drawing scaled to the box and centred by mass, by exact averages over areas."""
    rows, columns = np.flatnonzero(drawing.any(1)), np.flatnonzero(drawing.any(0))
    inked = drawing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = max(inked.shape) / BOX
    return np.clip(_average(_average(inked, scale).T, scale).T, 0, 1)


def _average(drawing: np.ndarray, scale: float) -> np.ndarray:
    """The rows of a drawing averaged over 28 pixels of height ``scale``: [28, width].

    Pixel j covers [c + (j - 14.5) scale, c + (j - 13.5) scale] with c the centre of mass. The sum
    of the rows above a height is linear between two rows, so its values at the edges are exact.
    """
    mass, length = drawing.sum(1), len(drawing)
    centre = ((np.arange(length) + 0.5) * mass).sum() / mass.sum()
    lowest, highest = length - (PIXELS - CENTRE) * scale, CENTRE * scale  # all ink inside
    edges = np.clip(centre, lowest, highest) + scale * (np.arange(PIXELS + 1) - CENTRE)
    edges = np.clip(edges, 0, length)
    row = np.minimum(edges.astype(int), length - 1)
    above = np.cumsum(drawing, axis=0) - drawing
    up_to_edge = above[row] + (edges - row)[:, None] * drawing[row]
    return np.diff(up_to_edge, axis=0) / scale


def _check_characters(characters: object) -> None:
    remedy = 'write for example characters="ABCDEFGHIJ"'
    if not isinstance(characters, str):
        raise TypeError(f"characters: expected a string, came {characters!r}; {remedy}")
    if not (characters.isascii() and characters.isalnum()):
        raise ValueError(
            f"characters: expected ASCII digits and letters, at least one, came {characters!r}; "
            f"{remedy}"
        )
    if len(set(characters)) < len(characters):
        raise ValueError(f"characters: expected none twice, came {characters!r}; {remedy}")


def _check_faces(faces: object) -> Sequence[str]:
    remedy = "write for example faces=pk.data.printed_faces[:10]"
    if isinstance(faces, str) or not isinstance(faces, Sequence):
        raise TypeError(f"faces: expected a sequence of names, came {faces!r}; {remedy}")
    unknown = [name for name in faces if name not in printed_faces]
    if unknown:
        raise ValueError(f"faces: expected names out of printed_faces, came {unknown}; {remedy}")
    if len(faces) == 0 or len(set(faces)) < len(faces):
        raise ValueError(
            f"faces: expected at least one face and none twice, came {list(faces)}; {remedy}"
        )
    return faces
