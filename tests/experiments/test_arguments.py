"""Arguments made in Python refuse what the command line refuses."""

from pathlib import Path

import ab_test
import compare
import continuations
import evaluate_checkpoint
import export_lists
import feature_study
import pytest
import results
import tune

from seqrec.types import InputError

RUN = Path("runs/a")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compare.Arguments(("banana",)), "runs=.*'banana', which is not a path"),
        (lambda: compare.Arguments((RUN,), level=float("nan")), "level=nan is not a finite number"),
        (lambda: compare.Arguments((RUN,), level=1.0), r"level=1.0 is not a share in \(0, 1\)"),
        (lambda: compare.Arguments((RUN,), n_resamples=0), "n_resamples=0 is below 1"),
        (lambda: continuations.Arguments("banana"), "run='banana' is not a path"),
        (lambda: continuations.Arguments(RUN, decoding="banana"), "decoding='banana' is not a DecodingConfig"),
        (lambda: evaluate_checkpoint.Arguments("banana"), "run='banana' is not a path"),
        (lambda: export_lists.Arguments(RUN, k="banana"), "k='banana' is not a whole number"),
        (lambda: export_lists.Arguments(RUN, k=0), "k=0 is below 1"),
        (lambda: feature_study.Config("banana"), "study='banana' is not a StudyConfig"),
        (lambda: results.Arguments(name=3), "name=3 is not a text"),
        (lambda: tune.config_type("sasrec")(script="banana"), "script='banana' is not one of sasrec, "),
        (lambda: ab_test.Arguments("banana"), "command='banana' is not a PlanFlags"),
    ],
)
def test_what_the_command_line_refuses_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
