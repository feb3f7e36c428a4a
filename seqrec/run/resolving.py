"""The recipe of a run: decided once, from the data of the run, kept in its directory, and followed on a resume."""

import functools
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

from seqrec import runs, runtime
from seqrec.config import Values, from_json, leaves, to_json, values_of, with_values, without_flags
from seqrec.data.buckets import working_copy
from seqrec.files import read_object
from seqrec.run.data import OpenedData, open_split, share_of
from seqrec.run.recipe import (
    RULES,
    Rule,
    as_flag,
    data_facts,
    fields_given,
    is_kept,
    recommended,
    record_of,
)
from seqrec.types import InputError


def run_script(main: Callable[..., Any], config_type: type) -> NoReturn:
    """Runs a training script: parses the command line, trains, and exits as `runtime.run_script` says.

    Flags that are given win over the recipe, those with the value of their default too.
    """
    default: Any = without_flags(config_type)
    given = fields_given(default, sys.argv[1:])
    runtime.run_script(functools.partial(main, given=given), config_type, default=default)


def resolve(run: Path, config: Any, data: OpenedData, *, given: Collection[str] = ()) -> Any:
    """The config that the run really has: with the recipe's values, where `config.recipe` asks for them.

    They are decided when the run first has its data, and said and kept in its `config.json` with the facts and reasons.
    Resumed, it goes on with what it was started with. One that starts from another run has that run's values.

    Raises:
      InputError: a flag differs from what a resumed run was started with.
    """
    if getattr(config, "recipe", "none") == "none":
        return config
    started = runtime.on_first(lambda: runs.started_with(run))
    earlier = from_json(type(config), started["config"])
    if recipe := runs.recipe_of(started):
        return _resumed(run, config, values_of(earlier, recipe["values"]), given)
    if earlier.recipe == "none":  # resumed by a command that has another default
        return with_values(config, {"recipe": "none"})
    opened, platform = open_split(config.training.data, *data), runtime.platform_name()
    name = opened.config.split.split
    facts = data_facts(
        data.store,
        opened.split,
        preparation=data.preparation,
        name=name,
        platform=platform,
        gather=share_of(data.store).of_all,
    )
    source = config.training.start.start_from
    rules = RULES if source is None else _rules_of(source, config)
    recommendation = recommended(config, facts, given=given, rules=rules)
    runtime.log.info("recipe      %s", facts)
    for line in recommendation.lines():
        runtime.log.info("recipe      %s", line)
    kept = [rule.field for rule in RULES if is_kept(config, rule.field, given)]
    if flags := [as_flag(*item) for item in values_of(config, dict.fromkeys(kept)).items()]:
        runtime.log.info("recipe      as given: %s", " ".join(flags))
    runtime.on_first(lambda: runs.note_recipe(run, recommendation.config, record_of(facts, recommendation)))
    return recommendation.config


def _resumed(run: Path, config: Any, earlier: Values, given: Collection[str]) -> Any:
    """The config with the values that the recipe had for this run, but for flags that a resumed run may change."""
    for name, value in values_of(config, earlier).items():
        if is_kept(config, name, given) and value != earlier[name] and not runs.is_free(name):
            raise InputError(
                f"{run / 'config.json'}: the run was started with {name}={earlier[name]}, by its recipe, not {value}; "
                f"leave the flag out to resume it, or choose another --output"
            )
    values = {name: value for name, value in earlier.items() if not is_kept(config, name, given)}
    runtime.log.info("recipe      as the run was started: %s", " ".join(as_flag(*item) for item in earlier.items()))
    return with_values(config, values)


def _rules_of(source: Path, config: Any) -> list[Rule]:
    """What a trained run or a bundle has in the table's fields and `config` has not: a run that starts from it has it.

    The table would choose another model once the data have grown past one of its bounds, and no weights would fit.
    """
    with working_copy(source, read_only=True, fetch="config.json") as earlier:
        theirs = dict(leaves(read_object(earlier / "config.json", config=dict)["config"]))
    why = f"as in {source.name}, from which training starts"
    ours = dict(leaves(to_json(config)))  # as JSON has theirs: a list for a tuple
    return [
        Rule(name, theirs[name], lambda facts, config: True, why)
        for name in dict.fromkeys(rule.field for rule in RULES)
        if theirs.get(name, ours[name]) != ours[name]
    ]
