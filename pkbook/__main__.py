"""``python -m pkbook``: see :mod:`pkbook.command`."""

from pkbook.command import main
from pkbook.command_line import leave

if __name__ == "__main__":
    leave(main())
