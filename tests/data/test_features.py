"""What is known of items is read as its types say, for each item of the store, and refused where it cannot be."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.data.features import Feature, read_item_features, shuffled_feature
from seqrec.data.store import sequence_store
from seqrec.types import InputError

KEYS = ["a", "b", "c", "d"]


def a_store(keys=KEYS, **more):
    keys = np.array(keys, dtype=object if isinstance(keys[0], str) else np.int64)
    items = np.arange(1, len(keys) + 1)
    return sequence_store(items, np.array([0, len(keys)]), keys, np.array([1]), **more)


@pytest.fixture
def table(tmp_path):
    """Writes columns, a row an item, to a Parquet file."""

    def write_table(name="features.parquet", **columns):
        pq.write_table(pa.table(columns), tmp_path / name)
        return tmp_path / name

    return write_table


def read(names, *files, store=None, trained=None):
    trained = None if trained is None else np.array([False, *trained])
    return read_item_features(names.split(), store or a_store(), files, trained=trained)


def test_types_say_what_a_column_is(table):
    file = table(
        item=["d", "c", "b", "a"],
        artist=["y", "x", None, "x"],
        tags=[["q", "p"], [], None, ["p"]],
        length=[7, 5, None, 3],
        audio=[[1.0, 0.0], [0.0, 1.0], None, [-1.0, -1.0]],
    )
    artist, tags, length, audio = read("artist tags length audio", file)
    assert artist.categories == ("x", "y")
    assert artist.values.tolist() == [[0], [1], [0], [1], [2]]
    assert tags.categories == ("p", "q")
    assert tags.values.tolist() == [[0, 0], [1, 0], [0, 0], [0, 0], [1, 2]]
    # 3, 5 and 7 have the mean 5 and the variance 8/3.
    np.testing.assert_allclose(length.values[:, 0], [0, -2 / np.sqrt(8 / 3), 0, 0, 2 / np.sqrt(8 / 3)], atol=1e-6)
    known = np.array([[-1.0, -1.0], [0.0, 1.0], [1.0, 0.0]])
    assert audio.known.tolist() == [False, True, False, True, True]
    np.testing.assert_allclose(audio.values[audio.known], known / np.sqrt(np.mean(known**2)), atol=1e-6)
    assert not audio.values[~audio.known].any()


def test_a_name_says_otherwise(table):
    file = table(item=KEYS, year=[1990, 1991, 1992, 1993])
    as_names, cut = read("year:categories", file)[0], read("year:buckets", file)[0]
    assert as_names.categories == ("1990", "1991", "1992", "1993")
    assert cut.values[1:, 0].tolist() == sorted(cut.values[1:, 0].tolist())
    assert len(set(cut.values[1:, 0].tolist())) == 4


def test_every_format_says_the_same(table, write):
    parquet = table(item=KEYS, artist=["x", "y", "x", None])
    csv = write("item_id,artist\na,x\nb,y\nc,x\nd,\n", "features.csv")
    lines = "".join(
        json.dumps({"item": k, "artist": v}) + "\n" for k, v in zip(KEYS, ["x", "y", "x", None], strict=True)
    )
    for file in (parquet, csv, write(lines, "features.jsonl")):
        [artist] = read("artist", file)
        assert artist.values[:, 0].tolist() == [0, 1, 2, 1, 0]


def test_files_without_types_say_numbers_lists_and_vectors_by_their_values(write):
    rows = [("a", 3, ["q", "p"], [1, 0]), ("b", 5.5, [], [0, 1]), ("c", None, None, None), ("d", 8, ["p"], [-1, 2.5])]
    lines = [dict(zip(("item", "length", "tags", "audio"), row, strict=True)) for row in rows]
    length, tags, audio = read("length tags audio", write("\n".join(map(json.dumps, lines)), "features.jsonl"))
    assert (tags.categories, audio.values.shape) == (("p", "q"), (5, 2))
    [as_text] = read("length", write("item,length\na,3\nb,5.5\nc,NULL\nd,8\n", "features.csv"))
    for feature in (length, as_text):
        assert feature.known.tolist() == [False, True, True, False, True]
        # 3, 5.5 and 8 have the mean 5.5 and the variance 25/6.
        np.testing.assert_allclose(feature.values[[1, 2, 4], 0], np.array([-2.5, 0, 2.5]) / np.sqrt(25 / 6), atol=1e-6)


def test_a_matrix_has_a_row_for_each_item_of_the_store(tmp_path):
    np.save(tmp_path / "audio.npy", np.eye(4, 3))
    [audio] = read("audio", tmp_path / "audio.npy")
    centred = np.eye(4, 3) - np.eye(4, 3).mean(axis=0)
    np.testing.assert_allclose(audio.values[1:], centred / np.sqrt(np.mean(centred**2)), atol=1e-6)


def test_the_store_itself_knows_attributes_and_years():
    titles = np.array(["Heat (1995)", "Alien (1979)", "Untitled", "(500) Days (2009) "], dtype=object)
    attributes = pa.array([["Crime"], ["Horror", "Sci-Fi"], [], None], pa.large_list(pa.large_string()))
    store = a_store(titles=titles, attributes=attributes)
    genres, year = read("attributes year:categories", store=store)
    assert genres.categories == ("Crime", "Horror", "Sci-Fi")
    assert year.categories == ("1979", "1995", "2009")
    assert year.known.tolist() == [False, True, True, False, True]


def test_nothing_is_learned_from_items_that_are_not_trained(table):
    file = table(
        item=KEYS, artist=["x", "x", "new", "x"], length=[1.0, 3.0, 100.0, 1.0], audio=[[1.0], [3.0], [9.0], [2.0]]
    )
    trained = (True, True, False, False)
    artist, length, audio = read("artist length audio", file, trained=trained)
    # Nothing could be learned of a category that only cold items have; one that is shared tells of them.
    assert artist.categories == ("x",)
    assert artist.known.tolist() == [False, True, True, False, True]
    # 1 and 3 have the mean 2 and the deviation 1.
    np.testing.assert_allclose(length.values[1:, 0], [-1, 1, 98, -1])
    np.testing.assert_allclose(audio.values[1:, 0], [-1, 1, 7, 0])


@pytest.mark.parametrize(
    ("columns", "features", "complaint"),
    [
        ({"artist": list("xyxy")}, "album", "'album' is in none of the tables, which have artist; name one"),
        ({"artist": list("xyxy")}, "artist:colour", "'colour' is not one of categories"),
        ({"artist": list("xyxy")}, "artist:vector", "makes no vector; cast the column"),
        ({"artist": [None] * 4}, "artist", "makes no feature|no item that is trained on has"),
        ({"audio": [[1.0, 2.0], [1.0], [1.0], [1.0]]}, "audio", "vectors of 2 and of 1 numbers .* item 2"),
        ({"audio": [[1.0], [np.nan], [1.0], [1.0]]}, "audio", "1 vectors hold a number that is not finite.*item 2"),
        ({"length": [1.0, np.inf, 1.0, 2.0]}, "length", "infinite"),
        ({"tags": [["t"] * 257, [], [], []]}, "tags", "item 1 has 257 categories, the limit is 256"),
    ],
)
def test_what_cannot_be_read_is_refused(table, columns, features, complaint):
    with pytest.raises(InputError, match=complaint) as refusal:
        read(features, table(item=KEYS, **columns))
    assert "\n" not in str(refusal.value)


def test_keys_must_fit(table, tmp_path, write):
    with pytest.raises(InputError, match="has item 'a' more than once"):
        read("x", table(item=["a", "a", "b"], x=[1, 2, 3]))
    with pytest.raises(InputError, match="none of which is in the data, which has 'a'"):
        read("x", table(item=["p", "q"], x=[1, 2]))
    with pytest.raises(InputError, match="items such as 'a', the data has integers such as 1"):
        read("x", table(item=["a"], x=[1]), store=a_store([1, 2]))
    with pytest.raises(InputError, match="no column 'item' or 'item_id'; it has 'track', 'x'; add"):
        read("x", table(track=["a"], x=[1]))
    np.save(tmp_path / "audio.npy", np.zeros((3, 2)))
    with pytest.raises(InputError, match="has 3 rows for n_items=4"):
        read("audio", tmp_path / "audio.npy")
    with pytest.raises(InputError, match="'x' is in 2 of the tables"):
        read("x", table("one.parquet", item=KEYS, x=[1] * 4), table("two.parquet", item=KEYS, x=[2] * 4))
    with pytest.raises(InputError, match="cannot be read"):
        read("x", write(b"PAR1 that ends", "features.parquet"))
    with pytest.raises(InputError, match="cannot be read"):
        read("x", write(b"no matrix", "features.npy"))
    with pytest.raises(InputError, match="row 2: the item is missing"):
        read("x", table(item=["a", None], x=[1, 2]))


def test_a_shuffled_feature_has_the_same_values_among_trained_and_among_other_items():
    n_items = 40
    values = np.append(0, np.arange(1, n_items + 1) % 7)[:, None].astype(np.int32)
    feature = Feature("genre", values, values[:, 0] > 0, tuple("abcdef"))
    trained = np.append(False, np.arange(n_items) < 25)
    first, again, other = (shuffled_feature(feature, trained=trained, seed=seed) for seed in (0, 0, 1))
    for group in (trained, ~trained):
        assert sorted(first.values[group, 0]) == sorted(values[group, 0])
    assert np.array_equal(first.known, first.values[:, 0] > 0)
    assert not first.values[0].any()
    assert np.array_equal(first.values, again.values)
    assert not np.array_equal(first.values, other.values)
    # Of 40 items about one in six keeps its genre by chance; four standard errors above that are 16.
    assert np.sum(first.values == values) < 17
