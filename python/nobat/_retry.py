"""When a call is made again. Pure: the caller sleeps."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from .errors import NobatError, TransportError, Unavailable

#: Longest that a server's Retry-After is waited for, in seconds.
MOST_HEEDED = 60.0


@dataclass(frozen=True)
class Retry:
    """How often, and after how long: ``delay`` doubles up to ``most``, a quarter of it at random."""

    times: int = 2
    delay: float = 0.5
    most: float = 8.0

    def patient(self) -> Retry:
        """For many calls, of which none shall fail because a server restarts: about half a minute."""
        return replace(self, times=max(self.times, 8)) if self.times else self

    def pause(self, tried: int, error: NobatError, *, sent: bool, keyed: bool) -> float | None:
        """Seconds until the next try after ``tried`` failed ones; ``None`` to give up.

        A call that may have reached the server is made again only under an idempotency
        key, or where it changes nothing (``keyed``); 503 says that nothing was done.
        """
        if tried > self.times:
            return None
        if isinstance(error, Unavailable):
            pass
        elif type(error) is not TransportError or (sent and not keyed):
            return None
        pause = min(self.most, self.delay * 2.0 ** (tried - 1)) * (1 - random.random() / 4)
        if error.retry_after is not None:
            if error.retry_after > MOST_HEEDED:
                return None
            pause = max(pause, error.retry_after)
        return pause
