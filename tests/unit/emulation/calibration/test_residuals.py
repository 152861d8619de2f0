"""The residuals that come with the package are those of the model as it is."""

import pytest

from emulation.calibration.residuals import residuals_of, shipped_residuals
from emulation.calibration.serving import SERVING_FIGURES, points


def test_the_shipped_residuals_are_those_of_every_point():
    """Where this fails after a change of the model: `cxlbed calibrate --residuals`."""
    found, shipped = (
        residuals_of([point for figure in SERVING_FIGURES for point in points(figure)]),
        shipped_residuals().by_kind,
    )
    assert found.keys() == shipped.keys()
    for kind, residual in found.items():
        assert (residual.least, residual.most) == pytest.approx((shipped[kind].least, shipped[kind].most), abs=1e-3), (
            kind
        )
        assert residual.points == shipped[kind].points
