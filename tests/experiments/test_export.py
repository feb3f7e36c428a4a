"""Runs become bundles that answer as they do: each script's model, features composed, compiled anew."""

import json
import shutil

import export
import jax
import numpy as np
import pytest
from bundle.small_bundles import answers_of, sizes_unchecked, write
from scripts import TRAINING

import seqrec
from seqrec import runtime
from seqrec.bundle import files
from seqrec.config import to_json
from seqrec.data.history import History
from seqrec.data.store import store_from_sequences
from seqrec.export import held_out, served_model
from seqrec.model import composed_params
from seqrec.params import init_params
from seqrec.recommendation import make_recommend
from seqrec.run.data import make_task
from seqrec.run.experiment import open_trained
from seqrec.types import InputError

N_ITEMS = 30
SMALL = ("--d-model", "8", "--max-length", "8", "--no-mask-seen")
SCRIPTS = [name for name in TRAINING if name not in ("seq2seq", "generative")]
OF_OTHER_LOSSES = ("gsasrec", "esasrec")
"""What differs from sasrec in the loss alone, which no bundle holds."""
ONE_BLOCK = ("--n-blocks", "1")  # of two, that of sasrec tells
FLAGS = {"sasrec": (), "gru4rec": ()}
HISTORIES = [[3], [7, 8, 9], list(range(1, 21))]


def config_of(name, *flags):
    return runtime.parse(TRAINING[name].Config, [*SMALL, *flags])


def task_of(config):
    return make_task(config.training.data, store_from_sequences([list(range(1, N_ITEMS + 1))] * 3), seed=0)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        *(
            pytest.param(name, FLAGS.get(name, ONE_BLOCK), marks=[pytest.mark.slow] * (name in OF_OTHER_LOSSES))
            for name in SCRIPTS
        ),
        ("sasrec", (*ONE_BLOCK, "--repeat-mixture")),
        ("sasrec", (*ONE_BLOCK, "--compute-dtype", "bfloat16")),
    ],
)
def test_the_bundle_of_each_scripts_model_answers_as_the_model(name, flags, tmp_path):
    config = config_of(name, *flags)
    model = TRAINING[name].build(config, task_of(config))
    params = jax.tree.map(lambda leaf: 5 * leaf, init_params(model.specs, jax.random.key(1)))
    served = served_model(TRAINING, {"experiment": name, "config": to_json(config)}, N_ITEMS)
    keys = np.arange(101, 101 + N_ITEMS)
    write(tmp_path / "bundle", served, params, keys=keys, name=name, mask_seen=False)
    lists = seqrec.load_bundle(tmp_path / "bundle").recommend([[100 + item for item in row] for row in HISTORIES], 5)
    expected = answers_of(model, params, [History(row) for row in HISTORIES], k=5, mask_seen=False)
    for place, (ids, scores) in enumerate(expected):
        assert lists.items[place] == (100 + ids).tolist()
        np.testing.assert_allclose(lists.scores[place], scores, rtol=1e-5, atol=1e-5)


def test_item_features_need_not_travel():
    """The model that is served has the table that they compose among its parameters, and is else the same."""
    config = config_of("sasrec", "--ids", "multi-hash", "--id-rows", "4")
    model = TRAINING["sasrec"].build(config, task_of(config))
    params = init_params(model.specs, jax.random.key(0))
    served = served_model(TRAINING, {"experiment": "sasrec", "config": to_json(config)}, N_ITEMS)
    whole = jax.tree.map(lambda leaf: leaf.shape, composed_params(model, params))
    assert jax.tree.map(lambda spec: spec.shape, served.specs) == whole


@pytest.fixture(scope="module")
def bundle(finished, tmp_path_factory):
    """The bundle of the finished run."""
    directory = tmp_path_factory.mktemp("bundles") / "bundle"
    with sizes_unchecked():
        export.main(export.Arguments(finished.directory, output=directory, index=True))
    return directory


def test_a_runs_bundle_recommends_what_the_run_recommends(finished, bundle):
    task, model, params = open_trained(finished.directory, TRAINING)
    recommend, store = make_recommend(model), task.store
    histories = [
        store.items[start:stop].tolist() for start, stop in zip(store.offsets[:4], store.offsets[1:5], strict=True)
    ]
    by_key = [store.item_keys[np.array(history) - 1].tolist() for history in histories]
    lists = seqrec.load_bundle(bundle).recommend(by_key, 5)
    expected = [store.item_keys[np.array(recommend(params, history, 5)) - 1].tolist() for history in histories]
    assert lists.items == expected


def test_the_bundle_has_the_runs_data_figures_and_curve(finished, bundle):
    record = json.loads((bundle / files.CONFIG).read_text())
    protocol = finished.results["protocol"]
    assert record["data"]["content_hash"] == protocol["data_hash"]
    assert record["data"]["split_hash"] == protocol["split_hash"]
    assert record["exported_with"]["jax"] == jax.__version__
    card = (bundle / files.CARD).read_text()
    # A bundle is given away: it does not say where files lay.
    assert record["config"]["training"]["data"]["data_path"] == "ratings.csv"
    assert not any(str(finished.directory.parent) in text for text in (str(record), card))
    assert (
        "{:.4f} [{:.4f}, {:.4f}]".format(
            *(finished.results["test"]["ndcg@10"], *finished.results["test"]["intervals"]["ndcg@10"])
        )
        in card
    )
    assert (bundle / "learning_curve.png").read_bytes() == (finished.directory / "learning_curve.png").read_bytes()
    assert (bundle / files.INDEX).name in json.loads((bundle / files.MANIFEST).read_text())["files"]
    vocabulary = files.read_vocabulary(bundle / files.ITEMS)
    assert vocabulary.titles[0] == "The Film 1 (1971)" or vocabulary.titles[0].startswith("Film 1")
    assert vocabulary.n_events.sum() > 0


def test_a_refresh_needs_neither_run_nor_data(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    before = seqrec.load_bundle(copy).facts
    with sizes_unchecked():
        export.main(export.Arguments(refresh=copy))
    assert seqrec.load_bundle(copy).facts == before


def test_an_encoder_decoder_has_no_bundle():
    config = runtime.parse(TRAINING["seq2seq"].Config, ["--max-length", "8", "--d-model", "8"])
    model = TRAINING["seq2seq"].build(
        config, make_task(config.training.data, store_from_sequences([list(range(1, 31))] * 3), seed=0)
    )
    with pytest.raises(InputError, match="an encoder-decoder generates continuations"):
        write("nowhere", model, init_params(model.specs, jax.random.key(0)))


def test_held_out_histories_end_before_their_targets(finished):
    task, _, _ = open_trained(finished.directory, TRAINING)
    store, rows = task.store, held_out(task).items
    assert len(rows.lengths) == len(task.test.users)
    for place, (user, target) in enumerate(zip(task.test.users, task.test.targets, strict=True)):
        whole = store.items[store.offsets[user] : store.offsets[user + 1]].tolist()
        assert whole[: rows.lengths[place] + 1] == [*rows.row(place).tolist(), target]


def test_a_refresh_writes_no_index():
    with pytest.raises(InputError, match="--refresh keeps the index that the bundle has; leave --index out"):
        runtime.parse(export.Arguments, ["--refresh", "b", "--index"])


@pytest.mark.parametrize("flags", [[], ["run"], ["--output", "b"], ["run", "--output", "b", "--refresh", "c"]])
def test_the_script_is_told_a_run_and_an_output_or_a_bundle(flags):
    with pytest.raises(InputError, match="name a run and its --output, or a bundle to --refresh"):
        runtime.parse(export.Arguments, flags)


def test_a_refresh_makes_no_onnx_files():
    with pytest.raises(InputError, match="--refresh keeps ONNX files that the bundle has; leave --onnx out"):
        runtime.parse(export.Arguments, ["--refresh", "b", "--onnx"])


def test_a_bundle_of_an_unknown_script_is_not_refreshed(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    manifest = json.loads((copy / files.MANIFEST).read_text())
    (copy / files.MANIFEST).write_text(json.dumps({**manifest, "model": "caser"}))
    with pytest.raises(InputError, match="holds a model caser, which is none of sasrec, gsasrec"):
        export.main(export.Arguments(refresh=copy))
