"""With moved seeds every way to give a seed gives other numbers, the same each time."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DRAW = """
import numpy as np, torch, pkbook as pk
torch.manual_seed(3)
print(torch.rand(1).item())
print(torch.rand(1, generator=torch.Generator().manual_seed(3)).item())
print(np.random.default_rng(3).random())
print(np.random.default_rng(np.random.default_rng(3)).random())
print(next(pk.models.mlp(1, 2, 1, seed=3).parameters())[0, 0].item())
print(next(iter(pk.batches(50, size=2, steps=1, seed=3))).tolist())
"""


def drawn(by: str) -> list[str]:
    tool = (ROOT / "tools" / "moved_seeds.py").read_text()
    env = {**os.environ, "PKBOOK_MOVED_SEEDS": by}
    command = [sys.executable, "-c", tool + DRAW]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    return done.stdout.splitlines()


def test_every_seed_is_moved_and_stays_moved():
    plain, once, again = drawn(""), drawn("1000"), drawn("1000")
    assert len(plain) == 6
    assert once == again
    assert all(a != b for a, b in zip(plain, once, strict=True))
