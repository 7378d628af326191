"""A folder in which one may not write: said as documented, and still read."""

import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from recording_worker import begin, reopen

import pkbook as pk

NOBODY = 65534


@contextmanager
def without_rights():
    """As a user without rights; root may write everywhere."""
    if os.name != "posix":
        pytest.skip("rights are those of POSIX")
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def kept():
    """The folder of a finished run that nobody may write in."""
    above = Path(tempfile.mkdtemp())
    above.chmod(0o755)
    run = begin(above / "run")
    for batch in pk.batches(len(run.x), size=4, steps=4, seed=0):
        run.step(batch)
    run.close()
    (above / "run" / "writer.lock").unlink(missing_ok=True)
    places = [above, *above.rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    yield above / "run"
    for place in places:
        place.chmod(stat.S_IRWXU)
    shutil.rmtree(above)


def test_opening_for_writing_is_refused_and_for_reading_works(kept):
    with without_rights():
        with pytest.raises(pk.StorageError, match=r"cannot be written.*read_only=True"):
            reopen(kept)
        run = reopen(kept, read_only=True)
        assert len(run) == 4
        assert run.interpolate(run.x[:1]).completeness.max() < 1e-3


def test_a_new_run_or_explanation_there_is_refused(kept):
    with without_rights():
        with pytest.raises(pk.StorageError, match="could not be written"):
            begin(kept.parent / "new")
        with (
            reopen(kept, read_only=True) as run,
            pytest.raises(pk.StorageError, match="cannot be written"),
        ):
            pk.explain(run, torch.as_tensor(run.x[:2]), folder=kept.parent / "told")
