"""Figures that size an experiment are refused where nothing could be computed of them."""

import pytest

from seqrec.abtest.commands import Sizing
from seqrec.types import InputError


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mean": 40.0}, "give both or neither"),
        ({"mean": 40.0, "standard_deviation": 1e300}, "standard_deviation=1e.300 is outside"),
        ({"mean": 1e300, "standard_deviation": 1.0}, "mean=1e.300 is outside"),
        ({"mean": 0.0, "standard_deviation": 1.0}, "mean=0.0 is outside"),
        ({"mean": 40.0, "standard_deviation": float("nan")}, "standard_deviation=nan is not a finite number"),
        ({"users_per_day": 1e-300}, "users_per_day=1e-300 is outside"),
        ({"lift": 0.0}, "lift=0.0 is not a relative effect"),
        ({"lift": 1e300}, "lift=1e.300 is not a relative effect"),
        ({"saved": 1.0}, "saved=1.0 is outside"),
    ],
)
def test_a_size_that_cannot_be_is_refused(fields, said):
    with pytest.raises(InputError, match=said):
        Sizing(**fields)
