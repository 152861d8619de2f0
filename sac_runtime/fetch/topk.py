"""Exact selection of the k best scores. Knows scores and positions; nothing of indexers, rows or buffers."""

import numpy as np

from sac_runtime import native
from sac_runtime.errors import GeometryError
from sac_runtime.rows.doors import require_array, require_whole
from sac_runtime.rows.layout import FloatArray, IntArray


def top_k(scores: FloatArray, k: int) -> IntArray:
    """Positions of the k highest scores, in ascending order of position.

    scores: (T,) float32; a score of -inf is masked and never chosen. Returns (min(k, scores above -inf),) int64.
    Ties: of equal scores at the k-th place the lower positions are taken; -0.0 equals 0.0.
    Raises GeometryError for another shape or dtype, k < 1, or a NaN score."""
    require_array("top_k", "scores", scores, np.float32, ("T",))
    require_whole("top_k", "k", k, 1)
    scores = np.ascontiguousarray(scores)
    positions = np.empty(min(k, scores.size), np.int64)
    copy = native.best_copy()
    count = native.load().sac_top_k(
        native.address(scores), scores.size, positions.size, native.address(positions), copy
    )
    if count == -1:
        raise GeometryError(f"top_k: scores[{int(np.isnan(scores).argmax())}] is NaN; a score must be a number or -inf")
    if count < 0:
        raise MemoryError(f"top_k: no memory for the candidates of {scores.size} scores")
    return positions[:count]
