"""How slowly a gather lets rows end, so that reads of host memory show the time of another tier. Knows no tiers, no kernels."""

from typing import NamedTuple


class Pace(NamedTuple):
    """The i-th row of a gather ends no sooner than first_ns + i * row_ps / 1000 after the gather began; 0, 0: as it comes."""

    first_ns: int
    row_ps: int

    @classmethod
    def through(cls, first_ns: float, last_ns: float, num_rows: int) -> "Pace":
        """The pace of `num_rows` rows whose first ends at first_ns and whose last at last_ns."""
        between = max(num_rows - 1, 1)
        return cls(max(round(first_ns), 1), max(round((last_ns - first_ns) * 1000 / between), 0))


AS_IT_COMES = Pace(0, 0)
