"""The colours of every figure, readable on light and on dark pages.

From Okabe and Ito's colour-blind safe set, without black, yellow, sky blue and orange, which vanish
on a white or on a dark page; purple is a little darker than theirs and a grey is added.  Every
colour keeps a contrast of at least 3:1 with both pages (tests/test_plots.py).
"""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#C46F9E", "#808080")
MINUS, PLUS, _, _, NEUTRAL = PALETTE
