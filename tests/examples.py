"""Which examples a run of the tests takes, and which are left to the night.

Hypothesis draws an eighth of them, and all where `SEQREC_ALL_EXAMPLES` is set.
"""

import os
from collections.abc import Iterable

import pytest
from hypothesis import settings

SHARE = 1 if os.environ.get("SEQREC_ALL_EXAMPLES") else 8


def examples(n: int) -> settings:
    """Settings of a test that draws `n` examples at night; others are drawn in each run."""
    return settings(max_examples=max(3, n // SHARE), deadline=None)


def at_night(names: Iterable[str], *, quick: Iterable[str]) -> list:
    """Parameters of a test, of which all but the `quick` ones are slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in quick)) for name in names]


settings.register_profile("seqrec", examples(100))
settings.load_profile("seqrec")
