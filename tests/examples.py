"""How many examples Hypothesis draws: a quarter in a run of the tests, all where `SEQREC_ALL_EXAMPLES` is set."""

import os

from hypothesis import settings

SHARE = 1 if os.environ.get("SEQREC_ALL_EXAMPLES") else 4


def examples(n: int) -> settings:
    """Settings of a test that draws `n` examples at night; others are drawn in each run."""
    return settings(max_examples=max(3, n // SHARE), deadline=None)


settings.register_profile("seqrec", examples(100))
settings.load_profile("seqrec")
