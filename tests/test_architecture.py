"""The picture of docs/architecture.md shows the floors that the code has."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_picture_shows_all_floors_in_their_order():
    """Modules that share a line of `layers` may not import one another; each is in the picture by its own name."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [
        name.strip() for contract in contracts for layer in contract.get("layers", ()) for name in layer.split("|")
    ]
    (picture,) = re.findall(r"```mermaid\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(), re.DOTALL)
    labels = re.findall(r'^ *f\d+\["[^<]*<br>(.*)"\]$', picture, re.MULTILINE)
    assert [name for label in labels for name in label.split(", ")] == layers
    assert re.findall(r"f\d+ --> f\d+", picture) == [f"f{n} --> f{n + 1}" for n in range(len(labels) - 1)]
