"""Any run's lists in place of the last items, by any way of decoding."""

import continuations
import evaluate_checkpoint
import pytest
import sasrec
import seq2seq
from conftest import TOY_MODEL, toy_histories

from seqrec import runs, runtime
from seqrec.files import read_json
from seqrec.generation import DecodingConfig
from seqrec.types import InputError

SPLIT = ("--n-out", "2", "--window-target", "first", "--no-mask-seen")


@pytest.fixture(scope="module", params=[seq2seq, sasrec], ids=lambda script: script.__name__)
def trained(request, ratings, tmp_path_factory):
    """A run on such a split, and the results that it left."""
    run, script = tmp_path_factory.mktemp("runs") / "run", request.param
    flags = ("--dataset", "movielens", "--data-path", str(ratings), *TOY_MODEL, *SPLIT, "--max-epochs", "1")
    flags += ("--n-decoder-blocks", "1") * (script is seq2seq)
    return run, script.main(runtime.parse(script.Config, [*flags, "--output", str(run)]))


def test_a_run_leaves_the_figures_of_its_continuations(trained, tmp_path, capsys):
    run, results = trained
    result = continuations.main(continuations.Arguments(run, json=tmp_path / "figures.json"))
    assert result["figures"] == results["continuations"]
    own = ["greedy"] if runs.experiment_of(run) == "seq2seq" else []
    assert list(result["figures"]) == [*own, "iterated", "top 2 at once", "popularity"]
    n_users = sum(len(history) >= 5 for history in toy_histories())
    assert {figures["n_users"] for figures in result["figures"].values()} == {n_users}
    assert read_json(tmp_path / "figures.json")["figures"].keys() == result["figures"].keys()
    assert "recall@2" in capsys.readouterr().out


@pytest.mark.parametrize("trained", [seq2seq], indirect=True, ids=["seq2seq"])
def test_a_checkpoint_gives_the_figures_of_its_run_again(trained):
    run, results = trained
    again = evaluate_checkpoint.main(evaluate_checkpoint.Arguments(run))
    assert again == {part: results[part] for part in again}
    assert again.keys() == {"test", "valid", "baselines", "comparisons", "protocol", "continuations"}


def test_other_ways_of_decoding_change_what_is_generated_and_nothing_else(trained):
    run, results = trained
    config = DecodingConfig("sample", temperature=10.0)
    figures = continuations.main(continuations.Arguments(run, decoding=config))["figures"]
    assert figures["iterated"] != results["continuations"]["iterated"]
    for way in ("top 2 at once", "popularity"):
        assert figures[way] == results["continuations"][way]


def test_a_run_that_holds_out_one_item_is_refused(finished):
    with pytest.raises(InputError, match="train it with --n-out 5 --window-target first"):
        continuations.main(continuations.Arguments(finished.directory))
