"""Each training script on a chain of items: it beats popularity, and its checkpoint gives its figures again."""

import evaluate_checkpoint
import numpy as np
import pytest
import seq2seq
from scripts import TRAINING

from seqrec import runtime
from seqrec.data.splits import SplitConfig
from seqrec.experiment import DataConfig

N_ITEMS = 30
FLAGS = (
    *("--d-model", "16", "--max-length", "16", "--batch-size", "32", "--warmup-steps", "5", "--no-mask-seen"),
    *("--learning-rate", "0.01"),
)
EPOCHS = {"bert4rec": "25"}  # it learns from a share of the positions at a time


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """After an item comes the next one on a circle with chance 3/4, else the third one on."""
    random = np.random.default_rng(0)
    steps = np.where(random.random((300, 16)) < 0.75, 1, 3)
    items = 1 + (random.integers(N_ITEMS, size=(300, 1)) + np.cumsum(steps, axis=1)) % N_ITEMS
    path = tmp_path_factory.mktemp("chain") / "chain.txt"
    path.write_text("".join(f"{user} {' '.join(map(str, row))}\n" for user, row in enumerate(items.tolist(), 1)))
    return path


@pytest.mark.parametrize("name", [name for name in TRAINING if name != "sasrec"])
def test_a_chain_is_learned_and_evaluated_again(name, chain, tmp_path, monkeypatch):
    script = TRAINING[name]
    flags = ["--dataset", "s3rec", "--data-path", str(chain), *FLAGS, "--max-epochs", EPOCHS.get(name, "8")]
    flags += ["--output", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", [f"experiments/{name}.py", *flags])
    results = script.main(runtime.parse(script.Config, flags))
    assert results["test"]["intervals"]["ndcg@10"][0] > results["baselines"]["popularity"]["intervals"]["ndcg@10"][1]
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


def test_a_model_that_sees_what_it_should_restore_is_refused():
    with pytest.raises(ValueError, match="a causal model cannot restore hidden items; leave --causal out"):
        TRAINING["bert4rec"].Config(model=TRAINING["sasrec"].TransformerConfig())
