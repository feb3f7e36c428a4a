"""A trial is judged as a run is, and by the validation alone."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from seqrec.data.split_config import SplitConfig
from seqrec.data.store import store_from_sequences
from seqrec.encoders.seq2seq import Seq2SeqConfig, seq2seq
from seqrec.encoders.transformer import TransformerConfig
from seqrec.evaluation import make_validate
from seqrec.files import read_json_lines
from seqrec.loop import FitConfig
from seqrec.model import Model
from seqrec.questions import continuation
from seqrec.run.building import build_model
from seqrec.run.config import TrainingConfig
from seqrec.run.data import DataConfig, Task, make_task
from seqrec.run.experiment import train
from seqrec.run.start_from import StartConfig
from seqrec.run.training import make_training
from seqrec.tracking.exporter import Follower
from seqrec.training import OptimizerConfig
from seqrec.tuning.training import check_population, make_courses, without_test
from seqrec.types import InputError

DATA = DataConfig(
    max_length=8,
    batch_size=8,
    mask_seen="no",
    split=SplitConfig(n_out=3, window_target="first"),
    whole_histories=False,
)
SMALL = Seq2SeqConfig(TransformerConfig(d_model=8, n_blocks=1, causal=False), n_decoder_blocks=1)


@dataclass(frozen=True)
class Config:
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            data=DATA, fit=FitConfig(max_epochs=1), optimizer=OptimizerConfig(schedule="plateau")
        )
    )
    model: Seq2SeqConfig = SMALL


def build(config: Config, task: Task) -> Model:
    encoder = seq2seq(config.model, n_items=task.n_items, max_length=task.max_length)
    return build_model(encoder, config.training, task, ask=continuation)


@pytest.fixture(scope="module")
def task():
    random = np.random.default_rng(0)
    walks = [(1 + (start + np.cumsum(random.choice([1, 1, 3], 12))) % 11).tolist() for start in range(24)]
    return make_task(DATA, store_from_sequences(walks), seed=0)


def test_a_trial_of_an_encoder_decoder_is_judged_by_what_it_generates_as_a_run_is(task, tmp_path):
    config = Config()
    model = build(config, task)
    init, make_step = make_training(model, config.training, n_steps=task.train.steps_per_epoch)
    trained = train(tmp_path, task, model, init(), make_step(), config.training.fit, Follower(tmp_path, ()))
    [of_run] = [line["valid"]["ndcg@10"] for line in read_json_lines(tmp_path / "metrics.jsonl") if "valid" in line]

    values = {"training.optimizer.learning_rate": config.training.optimizer.learning_rate}
    begin = make_courses(config, build, without_test(task))
    [of_trial] = next(begin([values]))
    assert next(begin([values])) == [of_trial]  # the first has not taken what both start from
    # Two compiled programs round differently, which may swap two items on one list.
    assert of_trial == pytest.approx(of_run, abs=0.01)
    of_queries: list[np.ndarray] = []
    validate = make_validate(model, task.valid, keep_ndcg=of_queries.append)
    by_first_item = validate(trained.state.averaged)["ndcg@10"]
    assert of_queries[0].mean() == pytest.approx(by_first_item)
    assert abs(of_trial - by_first_item) > 0.02  # the two ways to judge can be told apart here


def test_a_trial_has_no_test(task):
    seen = without_test(task)
    assert len(seen.test.users) == len(seen.test.targets) == 0
    assert (seen.split.test == -1).all()
    np.testing.assert_array_equal(seen.valid.users, task.valid.users)


def test_data_without_validation_targets_cannot_tell_trials_apart(task):
    empty = {name: getattr(task.valid, name)[:0] for name in ("users", "target_positions", "row_groups")}
    with pytest.raises(InputError, match="no user has a validation target; trials cannot be compared"):
        without_test(task._replace(valid=task.valid._replace(**empty)))


@pytest.mark.parametrize(
    ("training", "flag"),
    [({"start": StartConfig(Path("runs/old"))}, "--start-from"), ({"track": ("wandb",)}, "--track")],
)
def test_trials_start_from_random_weights_and_are_not_tracked(training, flag):
    with pytest.raises(InputError, match=f"leave {flag} out"):
        check_population(Config(training=TrainingConfig(**training)), {}, population=1)
