"""What is known of a user stands at each of the user's positions, and of a user without a row nothing is known."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.data.batches import EventFields, training_batches
from seqrec.data.event_features import EventFeatureConfig, features_at, features_hash, position_features, user_features
from seqrec.data.splits import leave_last_out
from seqrec.data.store import sequence_store
from seqrec.types import InputError

KEYS = np.array(["ann", "bob", "cat", "dan"], dtype=object)
# Of dan, with one event and no other, nothing is trained on but that event.
OFFSETS = np.array([0, 4, 8, 12, 13])
TABLE = {
    "user": ["cat", "ann", "eve", "bob"],
    "country": ["se", "de", "fr", None],
    "age": [30.0, 50.0, 99.0, None],
    "tags": [["a", "b"], ["b"], ["c"], []],
    "taste": [[1.0, 0.0], [3.0, 2.0], [9.0, 9.0], None],
}


def a_store():
    items = np.arange(1, 14)
    store = sequence_store(items, OFFSETS, items, KEYS)
    return store, leave_last_out(store)


@pytest.fixture
def file(tmp_path):
    pq.write_table(pa.table(TABLE), tmp_path / "users.parquet")
    return tmp_path / "users.parquet"


def by_user(name, file, **options):
    """What the first event of each user has."""
    config = EventFeatureConfig(user_features=(name,), user_feature_files=(file,), **options)
    store, split = a_store()
    [feature] = user_features(config, store, split)
    assert feature.name == f"user {name.partition(':')[0]}"
    return feature, feature.read(store, OFFSETS[:-1])


def test_categories_numbers_lists_and_vectors_of_users_are_aligned_by_key(file):
    feature, values = by_user("country", file)
    assert (feature.form, feature.size) == ("categories", 2)  # eve is nobody in the data, so fr is no category
    assert values.tolist() == [[1], [0], [2], [0]]
    _, values = by_user("tags", file)
    assert values.tolist() == [[2, 0], [0, 0], [1, 2], [0, 0]]
    feature, values = by_user("age", file)
    assert (feature.form, feature.size, values.dtype) == ("numbers", 1, np.float32)
    np.testing.assert_array_equal(values, [[1], [np.nan], [-1], [np.nan]])  # 50 and 30: mean 40, deviation 10
    feature, values = by_user("taste", file)
    # Centred at (2, 1), and of a mean square of 1: they are so already.
    np.testing.assert_allclose(values, [[1, 1], [np.nan] * 2, [-1, -1], [np.nan] * 2])


def test_all_events_of_a_user_have_what_the_user_has_in_batches_too(file):
    store, split = a_store()
    config = EventFeatureConfig(user_features=("country", "tags"), user_feature_files=(file,))
    features = position_features(config, store, split)
    batch = training_batches(
        store, split, max_length=4, batch_size=4, seed=0, fields=EventFields(features=features)
    ).batch(0)
    country = {1: 1, 2: 0, 3: 2}
    for row, column in np.argwhere(batch.items > 0):
        user = 1 + (batch.items[row, column] - 1) // 4
        assert batch.event_features["user country"][row, column].tolist() == [country[user]]
    assert batch.event_features["user tags"].shape == (*batch.items.shape, 2)


def test_another_stores_users_are_found_by_their_keys(file):
    feature, _ = by_user("country", file)
    items = np.array([1, 2, 3])
    other = sequence_store(
        items, np.array([0, 1, 2, 3]), np.arange(1, 14), np.array(["cat", "new", "ann"], dtype=object)
    )
    assert feature.read(other, np.arange(3)).tolist() == [[2], [0], [1]]


def test_shuffled_users_hold_the_same_and_other_files_have_another_hash(file, tmp_path):
    options = {"shuffled_user_features": ("country",)}
    assert sorted(by_user("country", file, **options)[1][:3].ravel().tolist()) == [0, 1, 2]
    store, split = a_store()
    pq.write_table(pa.table({**TABLE, "country": ["de", "se", "fr", None]}), tmp_path / "others.parquet")
    hashes = [
        features_hash(
            user_features(EventFeatureConfig(user_features=("country",), user_feature_files=(each,)), store, split),
            store,
        )
        for each in (file, file, tmp_path / "others.parquet")
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_table_of_users_that_cannot_be_read_is_refused(file, write):
    config = EventFeatureConfig(user_features=("county",), user_feature_files=(file,))
    message = (
        "user feature 'county' is in none of the tables, which have age, country, tags, taste; name one of these or "
    )
    with pytest.raises(InputError, match=message + "add a file to --user-feature-files"):
        user_features(config, *a_store())
    for content, message in (
        ("item,age\nann,3\n", "has no column 'user' or 'user_id'; it has 'item', 'age'; add"),
        ("user,age\nann,3\nann,4\n", "has user 'ann' more than once; give one row for each user"),
        ("user,age\neve,3\n", "has users such as 'eve', none of which is in the data, which has 'ann'"),
        ("user,age\nann,\nbob,\n", "age is null, which makes no feature|no user that is trained on has a age"),
    ):
        config = EventFeatureConfig(user_features=("age",), user_feature_files=(write(content, "users.csv"),))
        with pytest.raises(InputError, match=message):
            user_features(config, *a_store())


def test_features_that_are_named_wrongly_are_refused(file):
    with pytest.raises(ValueError, match="user_feature_files, but no user_features; name the columns"):
        EventFeatureConfig(user_feature_files=(file,))
    with pytest.raises(ValueError, match="shuffled_user_features names age, which is not in user_features"):
        EventFeatureConfig(user_features=("tags",), shuffled_user_features=("age",))


def test_what_one_event_and_its_user_have_of_one_name_are_two_features(file):
    items = np.arange(1, 14)
    store = sequence_store(items, OFFSETS, items, KEYS, columns={"age": items * 1.0})
    config = EventFeatureConfig(event_features=("age",), user_features=("age",), user_feature_files=(file,))
    features = position_features(config, store, leave_last_out(store))
    assert sorted(features_at(features, store, np.array([0]))) == ["event age", "user age"]
