"""seqrec: a functional JAX toolkit for Transformer sequence recommenders.

The names of `dir(seqrec)` are the public ones; `__init__.pyi` lists them, for editors and type checkers too. Each is
imported when it is first used, so that `import seqrec` is quick and a metric brings no database along.
"""

import importlib
import re
from pathlib import Path
from typing import Any

import seqrec.script_start  # noqa: F401 (before anything large is imported: its docstring says why)

_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_MODULES = {name: module for module, name in re.findall(r"^from (\S+) import (\w+)", _STUB, re.MULTILINE)}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # takes longer to import than all of this module

        try:
            value: Any = metadata.version("seqrec")
        except metadata.PackageNotFoundError:  # a checkout that is not installed
            value = "0+unknown"
    elif name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"seqrec has no attribute {name!r}; see dir(seqrec), or import its module")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_MODULES, "__version__"])
