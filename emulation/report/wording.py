"""How a number is worded in tables and pages."""


def significant(value: float, digits: int = 3) -> str:
    """A number as a reader wants it: so many digits that mean something, no exponent below ten million."""
    if value == 0 or not abs(value) < 1e7:
        return f"{value:.{digits}g}"
    rounded = float(f"{value:.{digits}g}")
    if abs(rounded) >= 10 ** (digits - 1):
        return f"{rounded:,.0f}"
    return f"{rounded:#.{digits}g}"


def span_of(low: float, high: float) -> str:
    """A range as a reader wants it."""
    return f"{significant(low)} to {significant(high)}"
