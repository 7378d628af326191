"""Draw the picture that others show in a link to the book: book/_static/social-card.png.

    .venv/bin/python tools/social_card.py

Run it when the title or the README's picture has changed.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "book" / "_static"
WIDE, HIGH, DOTS = 1200, 630, 100  # pixels that links to a page are shown with


def main() -> None:
    fig = plt.figure(figsize=(WIDE / DOTS, HIGH / DOTS), dpi=DOTS, facecolor="white")
    fig.text(0.06, 0.84, "How Networks Remember", fontsize=38, weight="bold", color="#0b3d66")
    fig.text(0.06, 0.75, "Every answer is a sum over the training samples.", fontsize=21)
    ax = fig.add_axes((0.17, 0.02, 0.66, 0.68))
    ax.imshow(plt.imread(STATIC / "one-picture.png"), aspect="equal", interpolation="lanczos")
    ax.axis("off")
    fig.savefig(STATIC / "social-card.png", dpi=DOTS, metadata={"Software": None})
    plt.close(fig)


if __name__ == "__main__":
    main()
