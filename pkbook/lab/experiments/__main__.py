"""``python -m pkbook.experiments``: the same as ``python -m pkbook experiment``."""

import sys

from pkbook.lab.experiments.machinery.command import main

if __name__ == "__main__":
    sys.exit(main())
