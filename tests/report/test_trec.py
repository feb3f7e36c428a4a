"""Files in TREC's formats: what other evaluators read from them are our own figures."""

import itertools
import re

import numpy as np
import pyarrow as pa
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from seqrec.metrics import metric_values
from seqrec.report.trec import falling_scores, trec_run_writer, write_qrels
from seqrec.types import InputError

N_USERS, N_ITEMS, LENGTH = 60, 40, 25
QUICK = examples(60)


def write_run(file, users, lists, scores, tag="t", *, users_per_part=7):
    """A run of lists of keys, written part by part; item ids count the keys in the order of their first place."""
    keys = list(dict.fromkeys(itertools.chain(*lists)))
    length = max(map(len, lists))
    ids, padded = np.zeros((len(lists), length), np.int32), np.full((len(lists), length), -np.inf)
    for row, (items, own) in enumerate(zip(lists, scores, strict=True)):
        ids[row, : len(items)] = [1 + keys.index(item) for item in items]
        padded[row, : len(items)] = own
    with trec_run_writer(file, pa.array(keys), tag=tag) as write:
        for start in range(0, len(lists), users_per_part):
            part = slice(start, start + users_per_part)
            write(pa.array(users[part]), ids[part], padded[part])


def lowered_one_by_one(scores: list[float]) -> list[np.float32]:
    """The slow twin of `falling_scores`, of one list."""
    lowered, previous = [], np.float32(np.inf)
    for score in scores:
        previous = min(np.float32(score), np.nextafter(previous, np.float32(-np.inf)))
        lowered.append(previous)
    return lowered


@pytest.fixture
def lists():
    """Random lists with few distinct scores, so with many ties, and one held-out item a user, in the list or not."""
    random = np.random.default_rng(0)
    users = [f"u{user}" for user in range(N_USERS)]
    items = [[f"i{item}" for item in random.permutation(N_ITEMS)[:LENGTH]] for _ in users]
    scores = [sorted(random.integers(0, 4, LENGTH) / 3.0, reverse=True) for _ in users]
    targets = [f"i{item}" for item in random.integers(0, N_ITEMS, N_USERS)]
    ranks = [
        float(row.index(target) + 1) if target in row else np.nan for row, target in zip(items, targets, strict=True)
    ]
    return users, items, scores, targets, np.array(ranks)


@pytest.fixture
def files(tmp_path, lists):
    users, items, scores, targets, _ = lists
    write_qrels(tmp_path / "qrels.txt", pa.array(users), pa.array(targets))
    write_run(tmp_path / "run.txt", users, items, scores, "ours")
    return tmp_path / "qrels.txt", tmp_path / "run.txt"


def our_means(ranks: np.ndarray) -> list[float]:
    values = metric_values(ranks, ks=(10,))
    return [float(np.mean(np.asarray(values[name], np.float64))) for name in ("ndcg@10", "recall@10", "mrr")]


def test_ir_measures_finds_our_figures(files, lists):
    ir_measures = pytest.importorskip("ir_measures")
    qrels = list(ir_measures.read_trec_qrels(str(files[0])))
    run = list(ir_measures.read_trec_run(str(files[1])))
    measures = [ir_measures.nDCG @ 10, ir_measures.R @ 10, ir_measures.RR]
    theirs = ir_measures.calc_aggregate(measures, qrels, run)
    np.testing.assert_allclose([theirs[measure] for measure in measures], our_means(lists[-1]), rtol=1e-6)


@pytest.mark.slow  # ranx compiles its metrics first
def test_ranx_finds_our_figures(files, lists):
    ranx = pytest.importorskip("ranx")
    qrels = ranx.Qrels.from_file(str(files[0]), kind="trec")
    run = ranx.Run.from_file(str(files[1]), kind="trec")
    theirs = ranx.evaluate(qrels, run, ["ndcg@10", "recall@10", "mrr"])
    np.testing.assert_allclose(
        [theirs[name] for name in ("ndcg@10", "recall@10", "mrr")], our_means(lists[-1]), rtol=1e-6
    )


def test_lines_are_trecs(tmp_path):
    write_qrels(tmp_path / "qrels", pa.array([7, 7]), pa.array([1, 2]))
    write_run(tmp_path / "run", [7, 8], [[3, 1], [1]], [[0.5, 0.25], [2.0]], "tag", users_per_part=1)
    assert (tmp_path / "qrels").read_text() == "7 0 1 1\n7 0 2 1\n"
    assert (tmp_path / "run").read_text() == "7 Q0 3 1 0.5 tag\n7 Q0 1 2 0.25 tag\n8 Q0 1 1 2 tag\n"


def test_parts_make_the_file_that_one_part_makes_and_hold_the_lists(tmp_path, lists):
    users, items, scores, _, _ = lists
    for size in (1, 7, N_USERS):
        write_run(tmp_path / str(size), users, items, scores, users_per_part=size)
    written = (tmp_path / "1").read_text()
    assert written == (tmp_path / "7").read_text() == (tmp_path / str(N_USERS)).read_text()
    # The slow twin, line by line; a score stands there by the fewest digits that give the same 32-bit float.
    lines = iter(written.splitlines())
    for user, own, own_scores in zip(users, items, scores, strict=True):
        for place, (item, score) in enumerate(zip(own, lowered_one_by_one(own_scores), strict=True), start=1):
            *fields, value, tag = next(lines).split(" ")
            assert (fields, np.float32(value), tag) == ([user, "Q0", item, str(place)], score, "t")
    assert next(lines, None) is None


finite = st.floats(-(2.0**120), 2.0**120, width=32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1.0])


@QUICK
@given(st.lists(st.lists(finite, min_size=5, max_size=5), min_size=1, max_size=4))
def test_scores_fall_as_if_lowered_one_by_one(rows):
    scores = np.sort(np.array(rows, np.float32), axis=1)[:, ::-1]
    expected = [lowered_one_by_one(row.tolist()) for row in scores]
    np.testing.assert_array_equal(falling_scores(scores), np.array(expected))


@pytest.mark.parametrize(
    "scores", [[0.0] * 4, [1.0, 1.0, 1.0 - 1e-12, -1.0], [3e38, 3e38, -3e38, -3e38], [1e-45, 0.0, 0.0, 0.0]]
)
def test_scores_fall_strictly_even_in_single_precision(tmp_path, scores):
    write_run(tmp_path / "run", ["u"], [list("abcd")], [scores])
    written = [np.float32(line.split()[4]) for line in (tmp_path / "run").read_text().splitlines()]
    assert len(written) == len(scores)
    assert all(after < before for before, after in itertools.pairwise(written))
    np.testing.assert_allclose(written, scores, rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize(
    ("items", "scores", "message"),
    [
        (["a b"], [1.0], "'a b' is empty or contains white space"),
        ([""], [1.0], "empty or contains"),
        (["a", "b"], [1.0, 2.0], r"user u, place 2: score 2.0 is above 1.0"),
        (["a"], [np.nan], "user u, place 1: score nan is not a finite"),
        (["a"], [1e39], "not a finite 32-bit float"),
        (["a", "a"], [2.0, 1.0], "user u has item a twice"),
    ],
)
def test_what_other_tools_would_misread_is_refused(tmp_path, items, scores, message):
    # In the second part, so that the first has been written: nothing of it is left.
    with pytest.raises(InputError, match=message):
        write_run(tmp_path / "run", ["t", "u"], [["z"], items], [[1.0], scores], users_per_part=1)
    assert not list(tmp_path.iterdir())


def test_a_tag_and_a_user_are_keys_too(tmp_path):
    with pytest.raises(InputError, match="'my tag'"):
        write_run(tmp_path / "run", ["u"], [["a"]], [[1.0]], "my tag")
    with pytest.raises(InputError, match=r"'u\\tx'"):
        write_qrels(tmp_path / "qrels", pa.array(["u\tx"]), pa.array(["a"]))
    with pytest.raises(InputError, match="user u has item a twice in qrels"):
        write_qrels(tmp_path / "qrels", pa.array(["u", "v", "u"]), pa.array(["a", "a", "a"]))


def test_every_character_that_splits_a_line_is_refused_and_no_other(tmp_path):
    characters = [chr(number) for number in range(0x3100)]  # the last space of Unicode is 0x3000
    spaces = [each for each in characters if re.match(r"\s", each)]
    others = [f"a{each}" for each in characters if each not in set(spaces)]
    write_qrels(tmp_path / "qrels", pa.array(others), pa.array(others))
    for space in spaces:
        with pytest.raises(InputError, match="contains white space"):
            write_qrels(tmp_path / "other", pa.array([f"a{space}b"]), pa.array(["a"]))
