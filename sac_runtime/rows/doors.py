"""What callers hand to the runtime, checked once at its doors: kind, dtype, shape, range. Knows arrays, not what they hold.

numpy would spread an array of one row over many, cast one dtype to another and count `True` as 1, all in silence."""

from operator import index

import numpy as np
from numpy.typing import DTypeLike

from sac_runtime.errors import GeometryError


def require_array(owner: str, name: str, array: object, dtype: DTypeLike, shape: tuple[int | str, ...]) -> None:
    """Raise GeometryError unless `array` is a numpy array of this dtype and shape. A letter in `shape` stands for any length."""
    if isinstance(array, np.ndarray) and array.dtype == dtype and len(shape) == array.ndim:
        for wanted, length in zip(shape, array.shape, strict=True):
            if wanted != length and not isinstance(wanted, str):
                break
        else:
            return
    words = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
    raise GeometryError(f"{owner}: {name} is {described(array)}; it must be {np.dtype(dtype).name} of shape {words}")


def require_floats(owner: str, name: str, array: object) -> None:
    """Raise GeometryError unless `array` is a numpy array of floating-point numbers, of any shape."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise GeometryError(f"{owner}: {name} is {described(array)}; it must be floating-point")


def require_integers(owner: str, name: str, array: object) -> None:
    """Raise GeometryError unless `array` is a numpy array of integers, one after another; an empty one may be of any dtype."""
    if not isinstance(array, np.ndarray) or array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise GeometryError(f"{owner}: {name} is {described(array)}; it must be integers of one dimension")


def require_whole(owner: str, name: str, value: object, least: int = 0, most: int | None = None) -> None:
    """Raise GeometryError unless `value` is a whole number (Python's or numpy's) from `least` to `most`."""
    try:
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if isinstance(value, bool | np.bool_) or number < least or (most is not None and number > most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise GeometryError(f"{owner}: {name}={value!r} must be a whole number, {limits}")


def described(array: object) -> str:
    """An array in an error."""
    if isinstance(array, np.ndarray | np.generic):
        return f"{array.dtype} of shape {array.shape}"
    return f"a {type(array).__name__}"
