"""A training run: its config, its data, the model that the config describes, training, testing and publishing.

What a training script needs is here; experiments/sasrec.py is the shortest of them.
"""

from typing import Annotated, TypeVar

try:
    from tyro.conf import arg
except ModuleNotFoundError as error:
    raise ImportError(f'{error.name} is missing; run pip install "seqrec[run]"') from error

from seqrec.model import Model as Model
from seqrec.run.building import build_model as build_model
from seqrec.run.config import RunConfig as RunConfig
from seqrec.run.config import TrainingConfig as TrainingConfig
from seqrec.run.data import DataConfig as DataConfig
from seqrec.run.data import Task as Task
from seqrec.run.experiment import make_main as make_main
from seqrec.run.recipe import Recipe as Recipe
from seqrec.run.resolving import run_script as run_script

_Config = TypeVar("_Config")
Flat = Annotated[_Config, arg(name="")]
"""A config whose flags have no prefix of its own on the command line."""
