"""The recipe's table: facts as a plain count has them, no dead line, flags that win, and models that can be built."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from seqrec import runtime
from seqrec.config import leaves, to_json, values_of, with_values
from seqrec.data.splits import ask_every, leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.run.data import make_task
from seqrec.run.recipe import RULES, Facts, Rule, data_facts, fields_given, recommended

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import sasrec

SIZES = itertools.product((500, 20_000), (3_000, 60_000, 2_000_000), (10, 75, 300))
LENGTHS = ((5.0, 4, 15), (7.0, 5, 28), (9.0, 6, 43), (60.0, 55, 95), (150.0, 90, 900))
ALL_FACTS = [
    Facts(n_users, n_items, n_items * per_item, *lengths, repeat_share, None, "leave-last-out", platform)
    for (n_users, n_items, per_item), lengths, repeat_share, platform in itertools.product(
        SIZES, LENGTHS, (0.0, 0.06, 0.4), ("cpu", "gpu")
    )
]
FACTS = [ALL_FACTS[place] for place in np.random.default_rng(0).choice(len(ALL_FACTS), 60, replace=False)]
FLAGS = (
    "",
    "--d-model 32 --n-heads 4",
    "--loss softmax",
    "--loss bce --negatives in-batch",
    "--loss sampled-softmax --item-updates sparse",
    "--label-smoothing 0.2",
    "--seen-weight 0.1 --mask-seen yes",
    "--mask-seen yes",
    "--no-mask-seen",
    "--repeat-mixture --no-mask-seen",
    "--temperature 0.5",
    "--skips rating=1 --skip-weight 0.1",
    "--n-out 3 --window-target first --no-mask-seen",
    "--attention fused --accumulation-steps 2",
)
STORE = store_from_sequences([[1 + (user + place) % 9 for place in range(8)] for user in range(6)])


def test_facts_are_what_a_plain_count_finds():
    random = np.random.default_rng(0)
    histories = [random.integers(1, 9, length).tolist() for length in random.integers(3, 40, 60)]
    split = leave_last_out(store := store_from_sequences(histories, n_items=10))
    facts = data_facts(store, split, preparation={"ties": {"share_tied": 0.25}}, name="mine", platform="tpu")
    lengths = sorted(map(len, histories))
    assert (facts.n_users, facts.n_items, facts.n_events) == (60, 10, sum(lengths) - 2 * 60)
    assert facts.events_per_item == facts.n_events / 10
    assert facts.mean_length == pytest.approx(sum(lengths) / 60)
    assert (facts.median_length, facts.long_length) == (lengths[29], lengths[58])
    assert facts.repeat_share == np.mean([history[-2] in history[:-2] for history in histories])
    assert facts[-3:] == (0.25, "mine", "tpu")
    every = data_facts(store, ask_every(store, split), preparation={}, name="mine", platform="cpu")
    assert every.repeat_share == facts.repeat_share  # leave one out asks for one event however it is put


def test_no_line_of_the_table_is_dead():
    dead = list(RULES)
    for facts in FACTS:
        reasons = recommended(sasrec.Config(), facts).reasons
        dead = [rule for rule in dead if reasons.get(rule.field) != rule.reason(facts)]
        assert f"{facts.n_items:,} items" in str(facts)
    assert not dead, "no facts of this test come to these lines: remove them, or add facts"


def test_a_cpu_trains_for_an_evening_whatever_the_size_of_the_data():
    """At some 5,000 events a second, or for one epoch."""
    for facts in FACTS:
        n_epochs = recommended(sasrec.Config(), facts._replace(platform="cpu")).config.training.fit.max_epochs
        assert n_epochs == 1 or n_epochs * facts.n_events <= 5_000 * 8 * 3600


@pytest.mark.parametrize("flags", FLAGS)
def test_every_flag_wins_and_a_model_can_be_built(flags):
    config = runtime.parse(sasrec.Config, flags.split())
    given = fields_given(config, flags.split())
    tasks = {}
    for facts in FACTS[:8]:
        recommendation = recommended(config, facts, given=given)
        assert not given & recommendation.reasons.keys()
        assert values_of(recommendation.config, given) == values_of(config, given)
        assert recommendation.config == with_values(config, values_of(recommendation.config, recommendation.reasons))
        data = recommendation.config.training.data
        if data not in tasks:
            tasks[data] = make_task(data, STORE, seed=0)
        sasrec.build(recommendation.config, tasks[data])


def test_a_flag_with_the_value_of_its_default_wins_too():
    facts = next(facts for facts in FACTS if recommended(sasrec.Config(), facts).config.model.d_model != 64)
    assert recommended(sasrec.Config(), facts, given={"model.d_model"}).config.model.d_model == 64


def test_a_rule_that_a_flag_makes_impossible_gives_way_to_the_next():
    rules = [
        Rule("training.loss.loss", "bce", lambda facts, config: True, "it has no label smoothing"),
        Rule("training.loss.loss", "softmax", lambda facts, config: True, "{n_users} users"),
    ]
    smooth = runtime.parse(sasrec.Config, ["--label-smoothing", "0.1"])
    recommendation = recommended(smooth, ALL_FACTS[0], rules=rules)
    assert (recommendation.config, recommendation.reasons) == (smooth, {"training.loss.loss": "500 users"})
    assert recommendation.lines() == ["--loss softmax: 500 users"]


def test_no_tables_are_fused_where_each_process_reads_its_own_shards():
    own = runtime.parse(sasrec.Config, ["--dataset", "store", "--shards", "own"])
    facts = next(facts for facts in FACTS if "training.fuse" in recommended(sasrec.Config(), facts).reasons)
    assert "training.fuse" not in recommended(own, facts).reasons


def test_every_field_of_the_table_is_one_of_the_script():
    assert {rule.field for rule in RULES} <= {name for name, _ in leaves(to_json(sasrec.Config()))}


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["--d-model", "64"], {"model.d_model"}),
        (["--d_model=64"], {"model.d_model"}),
        (["--no-whole-histories"], {"training.data.whole_histories"}),
        (["--no-mask-seen"], {"training.data.mask_seen"}),
        (["--mesh.data", "2"], {"training.mesh.data"}),
        (["store", "d-model", "-1"], set()),
    ],
)
def test_fields_are_known_by_their_flags(words, fields):
    assert fields_given(sasrec.Config(), words) == fields
