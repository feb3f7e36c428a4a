"""How often processes that trace programs look for garbage."""

import gc


def collect_seldom() -> None:
    """Lets Python look for garbage seldom, and not in what was imported: it takes a quarter of the time of a trace."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)
