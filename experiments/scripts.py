"""The training scripts by the names of what they train, for scripts that train or read what one of them left."""

import dataclasses
from typing import Literal

import bert4rec
import esasrec
import generative
import gru4rec
import gsasrec
import hawk
import hstu
import sasrec
import seq2seq
from tyro.conf import OmitArgPrefixes, Positional

from seqrec.config import check_fields

_MODULES = (sasrec, gsasrec, esasrec, bert4rec, gru4rec, hstu, hawk, seq2seq, generative)
TRAINING = {module.__name__: module for module in _MODULES}


def config_of_script(script: str, name: str, options: type, *, doc: str, module: str) -> type:
    """A training script's config, with its name and, as the field `name`, the options of the `module` that runs it."""
    fields = [
        ("script", Positional[Literal[tuple(TRAINING)]], script),  # type: ignore[misc]
        (name, OmitArgPrefixes[options], dataclasses.field(default_factory=options)),  # type: ignore[valid-type]
    ]
    namespace = {"__doc__": doc, "__module__": module, "__post_init__": check_fields}
    bases = (TRAINING[script].Config,)
    return dataclasses.make_dataclass("Config", fields, bases=bases, frozen=True, namespace=namespace)


def script_named(arguments: list[str]) -> str:
    """The training script that a command line names first; sasrec where it names none."""
    return arguments[0] if arguments and arguments[0] in TRAINING else "sasrec"
