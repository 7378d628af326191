"""``python -m pkbook.experiments``."""

import sys

from pkbook.experiments.command import main

if __name__ == "__main__":
    sys.exit(main())
