"""Files in TREC's formats: what other evaluators read from them are our own figures."""

import itertools

import numpy as np
import pytest

from seqrec.metrics import metric_values
from seqrec.report.trec import write_qrels, write_trec_run
from seqrec.types import InputError

N_USERS, N_ITEMS, LENGTH = 60, 40, 25


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
    write_qrels(tmp_path / "qrels.txt", users, targets)
    write_trec_run(tmp_path / "run.txt", users, items, scores, "ours")
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
    write_qrels(tmp_path / "qrels", [7, 7], [1, 2])
    write_trec_run(tmp_path / "run", [7], [[3, 1]], [[0.5, 0.25]], "tag")
    assert (tmp_path / "qrels").read_text() == "7 0 1 1\n7 0 2 1\n"
    assert (tmp_path / "run").read_text() == "7 Q0 3 1 0.5 tag\n7 Q0 1 2 0.25 tag\n"


@pytest.mark.parametrize(
    "scores", [[0.0] * 4, [1.0, 1.0, 1.0 - 1e-12, -1.0], [3e38, 3e38, -3e38, -3e38], [1e-45, 0.0, 0.0, 0.0]]
)
def test_scores_fall_strictly_even_in_single_precision(tmp_path, scores):
    write_trec_run(tmp_path / "run", ["u"], [list("abcd")], [scores], "t")
    written = [np.float32(line.split()[4]) for line in (tmp_path / "run").read_text().splitlines()]
    assert len(written) == len(scores)
    assert all(after < before for before, after in itertools.pairwise(written))
    np.testing.assert_allclose(written, scores, rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize(
    ("items", "scores", "message"),
    [
        (["a b"], [1.0], "'a b' is empty or contains white space"),
        ([""], [1.0], "empty or contains"),
        (["a", "b"], [1.0, 2.0], r"place 2: score 2.0 is above 1.0"),
        (["a"], [np.nan], "score nan is not a finite"),
        (["a"], [1e39], "not a finite 32-bit float"),
        (["a", "a"], [2.0, 1.0], "item a twice"),
    ],
)
def test_what_other_tools_would_misread_is_refused(tmp_path, items, scores, message):
    with pytest.raises(InputError, match=message):
        write_trec_run(tmp_path / "run", ["u"], [items], [scores], "t")
    assert not (tmp_path / "run").exists()


def test_a_tag_and_a_user_are_keys_too(tmp_path):
    with pytest.raises(InputError, match="'my tag'"):
        write_trec_run(tmp_path / "run", ["u"], [["a"]], [[1.0]], "my tag")
    with pytest.raises(InputError, match=r"'u\\tx'"):
        write_qrels(tmp_path / "qrels", ["u\tx"], ["a"])
    with pytest.raises(InputError, match="item a twice in qrels"):
        write_qrels(tmp_path / "qrels", ["u", "u"], ["a", "a"])
