"""``python -m pkbook``: see :mod:`pkbook.command`."""

from pkbook.basics.command_line import leave
from pkbook.command import main

if __name__ == "__main__":
    leave(main())
