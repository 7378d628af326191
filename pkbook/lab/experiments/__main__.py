"""``python -m pkbook.experiments``."""

import sys

from pkbook.lab.experiments.machinery.command import main

if __name__ == "__main__":
    sys.exit(main())
