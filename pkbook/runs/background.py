"""Files written while training goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait


class Background:
    """One thread, which has at most one piece of work; what goes wrong there is raised here."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "pkbook-checkpoints")
        self._begun: Future | None = None
        self.what = ""
        """What the work was that was begun last, in words."""

    def begin(self, work: Callable[[], None], what: str) -> None:
        """Do ``work`` in the thread; to be settled before."""
        self.what, self._begun = what, self._pool.submit(work)

    def settle(self, waiting: bool = True) -> None:
        """Raise what went wrong, once; with ``waiting`` only when the work is done."""
        if self._begun is None or not (waiting or self._begun.done()):
            return
        wait([self._begun])  # an interrupt here forgets nothing
        begun, self._begun = self._begun, None
        begun.result()

    def wait(self) -> None:
        """Until the work is done; what went wrong is raised later."""
        if self._begun is not None:
            wait([self._begun])
