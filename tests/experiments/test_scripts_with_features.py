"""Training scripts read what the flags name of events and users, and say what they cannot read."""

import evaluate_checkpoint
import numpy as np
import pytest
from conftest import train
from scripts import TRAINING

from seqrec import runtime
from seqrec.data.store import open_store
from seqrec.study.plan import Study, make_plan
from seqrec.types import InputError

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
    toy = (*toy[:-1], "2")
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


@pytest.mark.parametrize("name", [name for name in TRAINING if name not in READING])
def test_a_script_that_reads_items_alone_says_so(name, toy, tmp_path):
    script = TRAINING[name]
    flags = [*toy[:4], "--event-features", "gap", "--output", str(tmp_path / "run")]
    message = "(BERT4Rec reads items alone, so 'event gap' has no use)|(items are generated without events)"
    with pytest.raises(ValueError, match=message):
        script.main(runtime.parse(script.Config, flags))


@pytest.mark.parametrize("name", READING)
def test_a_study_prepares_its_data_with_what_any_variation_reads(name, toy, tmp_path):
    study = Study(
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
