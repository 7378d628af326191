"""``python -m pkbook``: see :mod:`pkbook.interpolation.command`."""

from pkbook.basics.command_line import leave
from pkbook.interpolation.command import main

if __name__ == "__main__":
    leave(main())
