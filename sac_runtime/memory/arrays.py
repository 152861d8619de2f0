"""What arrays must be before native code gets their addresses. Knows dtypes and shapes; each refusal is a GeometryError."""

import numpy as np

from sac_runtime import native
from sac_runtime.errors import GeometryError
from sac_runtime.rows.doors import described
from sac_runtime.rows.layout import ByteArray, IntArray


def require_numbers(store: str, field: str, numbers: IntArray) -> None:
    """Row or slot numbers: (n,) int64, contiguous."""
    if (
        not isinstance(numbers, np.ndarray)
        or numbers.dtype != np.int64
        or numbers.ndim != 1
        or not numbers.flags.c_contiguous
    ):
        raise GeometryError(
            f"store {store!r}: {field} is {described(numbers)}; "
            "it must be int64 of one dimension, contiguous (np.ascontiguousarray(x, np.int64))"
        )


def require_packed(store: str, field: str, packed: ByteArray, shape: tuple[int, int]) -> None:
    """Rows one after another: `shape` uint8, contiguous."""
    if (
        not isinstance(packed, np.ndarray)
        or packed.shape != shape
        or packed.dtype != np.uint8
        or not packed.flags.c_contiguous
    ):
        raise GeometryError(
            f"store {store!r}: {field} is {described(packed)}; it must be uint8 of shape {shape}, contiguous"
        )


def require_writable(field: str, array: ByteArray) -> None:
    """An array that something is read into."""
    if not array.flags.writeable:
        raise GeometryError(f"{field}: is read-only; what is read goes into it, so pass an array of your own")


def bytes_address(field: str, array: ByteArray) -> int:
    """Address of bytes: (n,) uint8, contiguous."""
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 1 or not array.flags.c_contiguous:
        raise GeometryError(f"{field}: is {described(array)}; it must be uint8 of one dimension, contiguous")
    return native.address(array)
