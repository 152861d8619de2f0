"""How a long job says what it is doing now: the one alias for it. Knows nobody who listens."""

from collections.abc import Callable

Say = Callable[[str], None]
