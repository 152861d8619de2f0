"""Numbers that know how they came about. Knows labels; draws nothing."""

from dataclasses import dataclass

from sac_runtime.label import Label, require_one_label


@dataclass(frozen=True)
class Figure:
    """A reported number, its unit and its label."""

    value: float
    unit: str
    label: Label


def ratio(of: Figure, to: Figure) -> float:
    """`of` over `to`. Raises LabelMixError if they came about in different ways, ValueError for unlike units."""
    require_one_label(of.label, to.label)
    if of.unit != to.unit:
        raise ValueError(f"ratio: {of.unit} over {to.unit} means nothing; compare figures of one unit")
    return of.value / to.value


def significant(value: float, digits: int = 3) -> str:
    """A number as a reader wants it: so many digits that mean something, no exponent below ten million."""
    if value == 0 or not abs(value) < 1e7:
        return f"{value:.{digits}g}"
    rounded = float(f"{value:.{digits}g}")
    if abs(rounded) >= 10 ** (digits - 1):
        return f"{rounded:,.0f}"
    return f"{rounded:#.{digits}g}"
