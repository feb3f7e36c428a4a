"""Each training script on a chain of items: its steps beat popularity, and its checkpoint gives its ranks again."""

import dataclasses

import evaluate_checkpoint
import jax
import numpy as np
import pytest
import seq2seq
from conftest import CHAIN_FLAGS
from examples import at_night
from scripts import TRAINING

from seqrec import runtime
from seqrec.baselines.popularity import training_counts
from seqrec.checkpoint import Progress, finish, open_checkpoints, save
from seqrec.data.events import prepare
from seqrec.data.sources import read_source
from seqrec.data.split_config import SplitConfig
from seqrec.data.store import open_store, store_from_sequences
from seqrec.encoders.transformer import TransformerConfig
from seqrec.evaluation import evaluate, make_eval_step
from seqrec.report.continuations import continuation_figures
from seqrec.report.figures import figures
from seqrec.report.kept_results import condense_run
from seqrec.report.results_page import page
from seqrec.run.baselines import baseline_ranks
from seqrec.run.data import DataConfig, make_task, open_task
from seqrec.run.experiment import open_run, open_trained
from seqrec.run.results import protocol
from seqrec.training import init_state, make_optimizer, make_train_step
from seqrec.types import InputError

LONG = store_from_sequences([list(range(1, 1001))] * 20)
WITHOUT_CODES = [name for name in TRAINING if name != "generative"]
TRAINED = ("sasrec", "bert4rec", "hstu", "seq2seq")
"""One for each question and form of times, which the quick tests train."""
EPOCHS = {"bert4rec": 25}  # it learns from a share of the positions at a time
ONE_BLOCK = {"gru4rec": (), "seq2seq": ("--n-blocks", "1", "--n-decoder-blocks", "1")}


@pytest.fixture(scope="module")
def chain_flags(chain, tmp_path_factory):
    """Flags of a run on the chain, which is prepared once."""
    directory = tmp_path_factory.mktemp("chain") / "store"
    prepare(read_source("s3rec", chain), directory)
    return ("--dataset", "store", "--data-path", str(directory), *CHAIN_FLAGS)


# A script's steps are made here or lowered below; what they are made of is learned and kept in tests of its own.
@pytest.mark.parametrize("name", at_night(WITHOUT_CODES, quick=TRAINED))
def test_steps_on_a_chain_lead_beyond_popularity_and_what_is_kept_of_them_to_the_same_ranks(
    name, chain_flags, tmp_path
):
    flags = (*ONE_BLOCK.get(name, ("--n-blocks", "1")), "--max-epochs", str(EPOCHS.get(name, 8)))
    config = runtime.parse(TRAINING[name].Config, [*chain_flags, *flags, "--output", str(tmp_path / "run")])
    training = config.training
    with open_run(config, training.run, experiment=name, dataset="chain") as run:
        task = open_task(run, training.data, seed=0)
    model = TRAINING[name].build(config, task)
    n_steps = training.fit.max_epochs * task.train.steps_per_epoch
    optimizer = make_optimizer(training.optimizer, model.specs, n_steps=n_steps)
    step = make_train_step(model, optimizer, seed=0, average_decay=training.optimizer.average_decay)
    state = init_state(model, optimizer, seed=0)
    for number in range(n_steps):
        state, _ = step(state, task.train.batch(number))
    rank = evaluate(make_eval_step(model), state.averaged, task.test).rank
    popularity = figures(baseline_ranks(task, "popularity").rank, users=task.test.users)
    assert figures(rank, users=task.test.users)["intervals"]["ndcg@10"][0] > popularity["intervals"]["ndcg@10"][1]
    if task.n_generated:
        counts = training_counts(task.store, task.split)
        lists = continuation_figures(model, state.averaged, task.test, n=task.n_generated, counts=counts)
        assert lists["greedy"]["intervals"]["recall@5"][0] > lists["popularity"]["intervals"]["recall@5"][1]
    with open_checkpoints(run / "checkpoints") as checkpoints:
        save(checkpoints, state, Progress(seed=0, step=n_steps, validations=((n_steps, 1.0),)))
        finish(checkpoints)
    opened, again, params = open_trained(run, TRAINING)
    np.testing.assert_array_equal(evaluate(make_eval_step(again), params, opened.test).rank, rank)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WITHOUT_CODES if name not in ("sasrec", "seq2seq")])
def test_a_checkpoint_gives_the_figures_of_its_run_again(name, chain_flags, tmp_path):
    script = TRAINING[name]
    flags = [*chain_flags, "--max-epochs", "1", "--output", str(tmp_path / "run")]
    results = script.main(runtime.parse(script.Config, flags))
    again = evaluate_checkpoint.main(evaluate_checkpoint.Arguments(tmp_path / "run"))
    assert again == {part: results[part] for part in again}
    assert again.keys() == {"test", "valid", "baselines", "comparisons", "protocol"}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"n_out": 5}, "leave last 5 out: .* this split leaves no items to generate; use --split leave-last-out"),
        ({"split": "users", "n_out": 5}, "this split leaves no items to generate; use --split leave-last-out"),
        ({"n_out": 300, "window_target": "first"}, "n_out=300 is above max_length=200, which history and"),
    ],
)
def test_a_split_that_holds_no_continuation_out_is_refused(split, message):
    task = make_task(DataConfig(split=SplitConfig(**split)), LONG, seed=0)
    with pytest.raises(InputError, match=message):
        seq2seq.build(seq2seq.Config(), task)


def test_figures_of_a_model_that_knows_when_the_answer_came_are_labelled(toy, tmp_path, monkeypatch, capsys):
    script = TRAINING["hstu"]
    flags = [*toy, "--max-epochs", "1", "--n-blocks", "1", "--times", "query", "--output", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["experiments/hstu.py", *flags])
    results = script.main(runtime.parse(script.Config, flags))
    assert (results["protocol"]["times"], results["protocol"]["time_aware"]) == ("query", True)
    assert "time-aware" in capsys.readouterr().out
    kept, defaults = condense_run(tmp_path / "run"), {"hstu": script.Config()}
    assert "(time-aware)" in page({"toy-seed-0": kept}, {}, defaults=defaults)
    of_history = protocol(make_task(DataConfig(times="history"), open_store(tmp_path / "run" / "store"), seed=0))
    assert (of_history["times"], of_history["time_aware"]) == ("history", False)
    kept = {**kept, "protocol": {**kept["protocol"], **of_history}}
    assert "(time-aware)" not in page({"toy-seed-0": kept}, {}, defaults=defaults)


def test_a_model_that_reads_no_times_is_not_labelled_as_if_it_did(toy, tmp_path):
    script = TRAINING["bert4rec"]
    with pytest.raises(InputError, match="reads no times, so times=query has no use; leave --times out"):
        script.main(runtime.parse(script.Config, [*toy, "--times", "query", "--output", str(tmp_path / "run")]))


# Of the others, losses lower in test_lowering.py as well, and encoders, with gradients, in test_every_encoder.py.
@pytest.mark.parametrize("name", at_night(TRAINING, quick=set(WITHOUT_CODES) - set(TRAINED)))
def test_the_steps_of_each_script_lower_for_every_platform(name):
    script = TRAINING[name]
    default = script.Config()
    data = dataclasses.replace(default.training.data, max_length=8, batch_size=2)
    task = make_task(data, store_from_sequences([list(range(1, 21))] * 2), seed=0)
    model = script.build(default, task)
    optimizer = make_optimizer(default.training.optimizer, model.specs, n_steps=10)
    state = init_state(model, optimizer, seed=0)
    step = make_train_step(model, optimizer, seed=0, average_decay=0.9)
    for program, *given in (
        (step, state, task.train.batch(0)),
        (make_eval_step(model), state.params, next(task.test.batches())),
    ):
        assert jax.export.export(program, platforms=("tpu", "cuda"))(*given).platforms == ("tpu", "cuda")


def test_a_model_that_sees_what_it_should_restore_is_refused():
    bert4rec = TRAINING["bert4rec"]
    task = make_task(DataConfig(), LONG, seed=0)
    with pytest.raises(InputError, match="a causal encoder cannot see both sides of a hidden item; leave --causal out"):
        bert4rec.build(bert4rec.Config(model=TransformerConfig()), task)
