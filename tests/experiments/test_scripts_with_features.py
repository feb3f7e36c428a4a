"""Each training script takes the features that its model can have, and refuses the others in one line."""

from collections.abc import Callable
from typing import NamedTuple

import evaluate_checkpoint
import numpy as np
import pytest
from conftest import train
from scripts import TRAINING

from seqrec import runtime
from seqrec.data.engagement import EngagementConfig
from seqrec.data.store import open_store
from seqrec.model import Model
from seqrec.repeats import RepeatHead
from seqrec.run.data import DataConfig, make_task, prepare_store
from seqrec.study.plan import StudyConfig, make_plan
from seqrec.types import InputError

WITHOUT_CODES = [name for name in TRAINING if name != "generative"]
READING = ("sasrec", "gsasrec", "esasrec", "gru4rec", "hstu", "hawk")


@pytest.fixture
def users(write):
    rows = [f"{user},{'se' if user % 3 else 'de'}" for user in range(1, 30)]
    return write("\n".join(["user,country", *rows]) + "\n", "users.csv")


@pytest.fixture
def flags(users, tmp_path):
    """Of what is read, and where the run is left."""
    return (
        *("--event-features", "rating:categories", "gap", "weekday", "session"),
        *("--user-features", "country", "--user-feature-files", str(users), "--output", str(tmp_path / "run")),
    )


def test_a_run_with_features_is_resumed_and_evaluated_again_and_knows_its_files(toy, flags, users, tmp_path, capsys):
    toy = (*toy[:-1], "1")
    results = train(*toy, *flags)
    store = open_store(tmp_path / "run" / "store")
    assert sorted(store.columns) == ["rating", "timestamp_us"]
    assert np.unique(store.columns["rating"]).tolist() == [0]  # the code of the one rating there is
    assert "feature     country: 29 of 40 trained users" in capsys.readouterr().err
    again = evaluate_checkpoint.main(evaluate_checkpoint.Arguments(tmp_path / "run"))
    assert again["test"] == results["test"]
    assert train(*toy, *flags, "--resume")["test"] == results["test"]
    users.write_text(users.read_text().replace("de", "no"))
    evaluate_checkpoint.main(evaluate_checkpoint.Arguments(tmp_path / "run"))  # another name for the same
    users.write_text(users.read_text().replace("1,se", "1,no"))
    with pytest.raises(InputError, match="was started on other data"):
        evaluate_checkpoint.main(evaluate_checkpoint.Arguments(tmp_path / "run"))


class Feature(NamedTuple):
    """What flags add to a model."""

    flags: str
    is_in: Callable[[Model], bool]
    refusals: dict[str, str]
    """What each script says whose model cannot have it."""


FEATURES = {
    "item features": Feature("--item-features year:buckets", lambda model: "feature year" in model.specs["items"], {}),
    "shared ids": Feature("--ids multi-hash --id-rows 5", lambda model: "item_table" not in model.specs, {}),
    "event features": Feature(
        "--event-features gap",
        lambda model: model.reads.event_features == ("event gap",),
        {"bert4rec": "'event gap' needs a causal encoder", "seq2seq": "items are generated without events"},
    ),
    "user features": Feature(
        "--user-features country --user-feature-files {users}",
        lambda model: model.reads.event_features == ("user country",),
        {"bert4rec": "'user country' needs a causal encoder", "seq2seq": "items are generated without events"},
    ),
    "repeat mixture": Feature(
        "--repeat-mixture --no-mask-seen",
        lambda model: isinstance(model.head, RepeatHead),
        {
            "gsasrec": "mixes with a plain softmax; use loss=softmax",
            "bert4rec": "a repeat mixture needs a causal encoder",
            "seq2seq": "--repeat-mixture generates no continuations; use --window-target last",
        },
    ),
    "side task": Feature(
        "--gap-head 0.1",
        lambda model: model.auxiliary_loss is not None,
        dict.fromkeys(("bert4rec", "seq2seq"), "side tasks need a causal encoder"),
    ),
    "times": Feature(
        "--times history",
        lambda model: model.reads.times == "history",
        {
            **dict.fromkeys(("gru4rec", "hawk", "bert4rec"), "this encoder reads no times"),
            "seq2seq": "times=history, but items are generated without times",
        },
    ),
}


@pytest.fixture(scope="module")
def timed(ratings, tmp_path_factory):
    """A store of the toy ratings, with their times."""
    directory = tmp_path_factory.mktemp("timed") / "store"
    prepare_store(directory, (DataConfig("movielens", ratings, times="history"), EngagementConfig()))
    return open_store(directory)


def built(name, store, flags):
    """The model of a script under these flags, untrained."""
    config = runtime.parse(TRAINING[name].Config, ["--max-length", "8", "--batch-size", "8", *flags])
    training = config.training
    return TRAINING[name].build(config, make_task(training.data, store, seed=0, engagement=training.engagement))


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("name", WITHOUT_CODES)
def test_each_script_takes_each_feature_or_refuses_it_in_one_line(name, feature, timed, users):
    flags = FEATURES[feature].flags.format(users=users).split()
    if name in FEATURES[feature].refusals:
        with pytest.raises(ValueError, match=FEATURES[feature].refusals[name]) as refusal:
            built(name, timed, flags)
        assert "\n" not in str(refusal.value)
    else:
        assert FEATURES[feature].is_in(built(name, timed, flags))


@pytest.mark.parametrize("name", WITHOUT_CODES)
def test_a_script_without_flags_has_none_of_the_features(name, timed):
    model = built(name, timed, [])
    assert "items" not in model.specs
    assert not [feature for feature in list(FEATURES)[1:] if FEATURES[feature].is_in(model)]


@pytest.mark.parametrize("name", READING)
def test_a_study_prepares_its_data_with_what_any_variation_reads(name, toy, tmp_path):
    study = StudyConfig(
        base=f"base={' '.join(toy[:4])} --max-length 8",
        variations=("gap=--event-features gap", "rating=--event-features rating"),
        experiment=name,
        output=tmp_path / "study",
    )
    plan = make_plan(study, TRAINING)
    width = TRAINING[name].Config().model.d_model
    more = {arm: n - plan.n_parameters["base"] for arm, n in plan.n_parameters.items()}
    # A vector for each of 32 buckets and one for no gap; a projection of one number, and a vector for none.
    assert more == {"base": 0, "gap": 33 * width, "rating": 2 * width}
    assert sorted(open_store(plan.store).columns) == ["rating", "timestamp_us"]
