"""Each training script on a chain of items: it beats popularity, and its checkpoint gives its figures again."""

import dataclasses

import evaluate_checkpoint
import jax
import pytest
import seq2seq
from conftest import learn_chain
from scripts import TRAINING
from seqrec.tasks import DataConfig, Task

from seqrec import runtime
from seqrec.data.batches import make_queries, training_batches
from seqrec.data.split_config import SplitConfig
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.evaluation import make_eval_step
from seqrec.report.results_page import condensed, page
from seqrec.training import init_state, make_optimizer, make_train_step
from seqrec.types import InputError

EPOCHS = {"bert4rec": "25"}  # it learns from a share of the positions at a time


@pytest.mark.parametrize("name", [name for name in TRAINING if name != "sasrec"])
def test_a_chain_is_learned_and_evaluated_again(name, chain, tmp_path):
    results = learn_chain(TRAINING[name], chain, tmp_path / "run", "--max-epochs", EPOCHS.get(name, "8"))
    again = evaluate_checkpoint.main(evaluate_checkpoint.Arguments(tmp_path / "run"))
    assert again["test"] == results["test"]
    if name == "seq2seq":
        compared = results["continuations"]
        assert compared["greedy"]["intervals"]["recall@5"][0] > compared["popularity"]["intervals"]["recall@5"][1]
        assert again["continuations"] == compared


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"n_out": 5}, "window_target=last, n_out=5 leave no items to generate; use split=leave-last-out"),
        ({"split": "temporal", "window_target": "first", "n_out": 5}, "split=temporal, window_target=first"),
        ({"n_out": 300, "window_target": "first"}, "n_out=300 is above max_length=200"),
    ],
)
def test_a_split_that_holds_no_continuation_out_is_refused(split, message):
    with pytest.raises(ValueError, match=message):
        seq2seq.Config(data=DataConfig(split=SplitConfig(**split)))


@pytest.mark.parametrize(("name", "times"), [("hstu", "history"), ("hstu", "query"), ("sasrec", "history")])
def test_figures_of_a_model_that_knows_when_the_answer_came_are_labelled(
    name, times, toy, tmp_path, monkeypatch, capsys
):
    script = TRAINING[name]
    flags = [*toy, "--max-epochs", "1", "--times", times, "--output", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", [f"experiments/{name}.py", *flags])
    found = script.main(runtime.parse(script.Config, flags))
    assert found["protocol"]["times"] == times
    assert found["protocol"]["time_aware"] == (times == "query")
    assert ("time-aware" in capsys.readouterr().out) == (times == "query")
    kept = condensed(tmp_path / "run")
    assert ("(time-aware)" in page({"toy-seed-0": kept}, {}, defaults={name: script.Config()})) == (times == "query")


def test_a_model_that_reads_no_times_is_not_labelled_as_if_it_did(toy, tmp_path):
    script = TRAINING["bert4rec"]
    with pytest.raises(InputError, match="BERT4Rec reads no times, so times=query has no use; leave --times out"):
        script.main(runtime.parse(script.Config, [*toy, "--times", "query", "--output", str(tmp_path / "run")]))


@pytest.mark.parametrize("name", TRAINING)
def test_the_steps_of_each_script_lower_for_every_platform(name):
    script = TRAINING[name]
    store = store_from_sequences([[1, 2, 3, 4], [2, 3, 4, 5]])
    split = leave_last_out(store)
    data = dataclasses.replace(script.Config().data, max_length=8, batch_size=2)
    train = training_batches(store, split, max_length=8, batch_size=2, seed=0)
    test = make_queries(store, split.test, max_length=8, batch_size=2, mask_seen=True)
    config = script.Config(data=data)
    model = script.build(config, Task(data, store, split, train, test, test))
    optimizer = make_optimizer(config.optimizer, model.encoder.specs, n_steps=10)
    state = init_state(model.encoder, optimizer, seed=0)
    step = make_train_step(model.encoder, model.objective, model.loss, optimizer, seed=0, average_decay=0.9)
    for program, *given in (
        (step, state, train.batch(0)),
        (make_eval_step(model.encoder), state.params, next(test.batches())),
    ):
        assert jax.export.export(program, platforms=("tpu", "cuda"))(*given).platforms == ("tpu", "cuda")


def test_a_model_that_sees_what_it_should_restore_is_refused():
    with pytest.raises(ValueError, match="a causal model cannot restore hidden items; leave --causal out"):
        TRAINING["bert4rec"].Config(model=TRAINING["sasrec"].TransformerConfig())
