"""For pytest: a module whose library is not installed has no doctests that could be collected."""

from importlib.util import find_spec

collect_ignore = []
if find_spec("kronfluence") is None:  # the extra "ekfac", no part of the tests' environment
    collect_ignore.append("pkbook/lab/experiments/parts/eigenvalue_corrected.py")
