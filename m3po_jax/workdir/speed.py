"""How fast a run trains, and how much longer everything takes."""

import collections

_WINDOW_S = 60.0


class Speed:
    """The speed of a run over its last minute of training, and what is done beside training.

    It is taken from the rows of metrics.csv, whose speed leaves out compiling and evaluations.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._recent: collections.deque[tuple[float, int]] = collections.deque()
        self._last: tuple[float, int] | None = None
        self._learned = False
        self._busy = self._passed = 0.0

    def note(self, now: float, env_steps: int, rate: float, *, learns: bool) -> None:
        """Takes in a row.

        Args:
            now: Seconds.
            env_steps: Steps so far.
            rate: Steps per second of training since the row before.
            learns: Whether the warm-up is over; from then on these rows alone count.
        """
        last, self._last = self._last, (now, env_steps)
        if learns and not self._learned:
            self._learned = True
            self._recent.clear()
            self._busy = self._passed = 0.0
        if last is None or rate <= 0.0:
            return
        steps = env_steps - last[1]
        self._recent.append((steps / rate, steps))
        self._busy += steps / rate
        self._passed += now - last[0]
        excess = sum(seconds for seconds, _ in self._recent) - _WINDOW_S
        while excess >= self._recent[0][0]:
            excess -= self._recent.popleft()[0]

    @property
    def rate(self) -> float:
        """Steps per second of training, of late; 0 where nothing is known."""
        seconds = sum(seconds for seconds, _ in self._recent)
        return sum(steps for _, steps in self._recent) / seconds if seconds else 0.0

    @property
    def stretch(self) -> float:
        """Seconds that pass for one of training, at least 1."""
        return max(1.0, self._passed / self._busy) if self._busy else 1.0
