import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.data import store as store_module
from seqrec.data.store import open_store, read_preparation, sequence_store, store_from_sequences, write_store
from seqrec.types import InputError


def a_store(*, titles=("Zoë", ""), user_keys=("b", "a")):
    return sequence_store(
        np.array([2, 1, 2]),
        np.array([0, 1, 3]),
        item_keys=np.array([-7, 2**62]),
        user_keys=np.array(user_keys, dtype=object),
        titles=None if titles is None else np.array(titles, dtype=object),
    )


def test_histories_lie_one_after_another():
    histories = [[3, 1], [], [2]]
    store = store_from_sequences(histories, n_items=5)
    assert (store.n_users, store.n_items, store.n_events) == (3, 5, 3)
    assert store.items.dtype == np.int32
    assert store.offsets.dtype == np.int64
    for user, history in enumerate(histories):
        assert store.items[store.offsets[user] : store.offsets[user + 1]].tolist() == history


def test_a_store_that_is_written_and_opened_is_the_same(tmp_path):
    store = a_store()
    for opened in (write_store(tmp_path / "store", store), open_store(tmp_path / "store")):
        assert isinstance(opened.items, np.memmap)
        for name in ("items", "offsets", "item_keys", "user_keys", "titles"):
            assert getattr(opened, name).tolist() == getattr(store, name).tolist(), name
            assert getattr(opened, name).dtype == getattr(store, name).dtype, name
        assert opened.content_hash == store.content_hash


def test_a_store_without_titles_has_none(tmp_path):
    assert write_store(tmp_path / "store", a_store(titles=None)).titles is None


def test_the_hash_depends_on_the_content_and_not_on_the_place_or_time(tmp_path):
    one, two = (write_store(tmp_path / name, a_store()).content_hash for name in ("one", "deep/er/two"))
    assert one == two == a_store().content_hash
    changed = [
        a_store(titles=None),
        a_store(titles=("Zoë", "?")),
        a_store(titles=("", "Zoë")),
        a_store(user_keys=("a", "b")),
        a_store(user_keys=("ba", "")),
        store_from_sequences([[2], [1, 2]]),
    ]
    assert len({one, *(store.content_hash for store in changed)}) == len(changed) + 1


def test_keys_as_numbers_and_as_text_hash_apart():
    arrays = {"items": np.array([1]), "offsets": np.array([0, 1]), "user_keys": np.array([1])}
    as_number = sequence_store(**arrays, item_keys=np.array([1]))
    as_text = sequence_store(**arrays, item_keys=np.array(["1"], dtype=object))
    assert as_number.content_hash != as_text.content_hash


def test_no_file_of_a_store_is_a_pickle(tmp_path):
    write_store(tmp_path / "store", a_store())
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        "items.npy",
        "items.parquet",
        "manifest.json",
        "offsets.npy",
        "users.parquet",
    ]
    for name in ("items.npy", "offsets.npy"):
        np.load(tmp_path / "store" / name, allow_pickle=False)


def test_a_store_gives_way_to_a_newer_one(tmp_path):
    write_store(tmp_path / "store", a_store())
    newer = store_from_sequences([[1, 2, 3]])
    assert write_store(tmp_path / "store", newer).content_hash == newer.content_hash
    assert os.listdir(tmp_path) == ["store"]


@pytest.mark.parametrize("before", [True, False])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, before):
    if before:
        write_store(tmp_path / "store", a_store())

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module.pq, "write_table", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        write_store(tmp_path / "store", store_from_sequences([[1]]))
    assert os.listdir(tmp_path) == (["store"] if before else [])
    if before:
        assert open_store(tmp_path / "store").content_hash == a_store().content_hash


def test_a_directory_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    with pytest.raises(InputError, match="choose another directory"):
        write_store(tmp_path / "thesis", a_store())
    with pytest.raises(InputError, match="choose another directory"):
        write_store(tmp_path / "thesis" / "chapter.txt", a_store())
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "precious"


def test_an_empty_directory_is_filled(tmp_path):
    (tmp_path / "store").mkdir()
    assert write_store(tmp_path / "store", a_store()).n_events == 3


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_store(tmp_path / "missing")
    with pytest.raises(InputError, match="not a sequence store"):
        open_store(tmp_path)


def edit_manifest(directory, **changes):
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: edit_manifest(d, n_events=4), r"items.npy holds \(3,\).*manifest says \(4,\)"),
        (lambda d: edit_manifest(d, n_users=7), r"offsets.npy holds \(3,\).*manifest says \(8,\)"),
        (lambda d: edit_manifest(d, n_items=1), "items.parquet holds 2 rows, the manifest says 1"),
        (lambda d: edit_manifest(d, format_version=99), "format version 99; this seqrec reads 1"),
        (lambda d: (d / "manifest.json").write_text("{"), "not a sequence store's manifest"),
        (lambda d: (d / "manifest.json").write_text("[]"), "not a sequence store's manifest"),
        (lambda d: (d / "items.npy").unlink(), "items.npy is missing or damaged"),
        (lambda d: (d / "users.parquet").unlink(), "users.parquet is missing or damaged"),
        (lambda d: (d / "users.parquet").write_bytes(b"PAR1"), "users.parquet is missing or damaged"),
        (lambda d: os.truncate(d / "items.npy", 130), "items.npy is missing or damaged"),
        (lambda d: np.save(d / "items.npy", np.array([1.0, 2.0, 3.0])), "float64"),
        (lambda d: np.save(d / "items.npy", np.array([None] * 3)), "items.npy is missing or damaged"),
        (lambda d: np.save(d / "offsets.npy", np.array([0, 4, 3])), "does not rise"),
        (lambda d: edit_manifest(d, event_columns=[{"name": "a", "dtype": "|O"}]), r"has the type '\|O' for 'a'"),
        (lambda d: edit_manifest(d, event_columns=[{"name": "a", "dtype": "<i8"}]), "event_column_0.npy is missing"),
        (lambda d: edit_manifest(d, event_columns=[1]), "not a sequence store's manifest"),
        (lambda d: edit_manifest(d, n_events=float("inf")), "not a sequence store's manifest"),
        (lambda d: (d / "items.npy").write_bytes(b""), "items.npy is missing or damaged"),
        (lambda d: (d / "offsets.npy").write_bytes(b""), "offsets.npy is missing or damaged"),
        (lambda d: (d / "users.parquet").write_bytes(b""), "users.parquet is missing or damaged"),
        (lambda d: np.save(d / "items.npy", np.zeros(3, np.int32)), "items.npy holds ids outside 1..n_items=2"),
        (lambda d: np.save(d / "items.npy", np.array([1, 2, 3], np.int32)), "items.npy holds ids outside 1..n_items=2"),
    ],
)
def test_a_damaged_store_is_refused_in_one_line(tmp_path, damage, message):
    write_store(tmp_path / "store", a_store())
    damage(tmp_path / "store")
    with pytest.raises(InputError, match=message) as caught:
        open_store(tmp_path / "store")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: np.save(d / "items.npy", np.array([1, 1, 1], np.int32)),
        lambda d: np.save(d / "offsets.npy", np.array([0, 2, 3])),
        lambda d: np.save(d / "event_column_0.npy", np.array([1, 2, 4])),
        lambda d: pq.write_table(pa.table({"key": [5, 7]}), d / "items.parquet"),
        lambda d: pq.write_table(pa.table({"key": [8, 7]}), d / "users.parquet"),
        lambda d: edit_manifest(d, content_hash="0" * 64),
    ],
    ids=["items", "offsets", "an event column", "item keys", "user keys", "the hash"],
)
def test_changed_content_is_found_by_its_hash(tmp_path, damage):
    written = write_store(tmp_path / "store", with_columns(a=np.array([1, 2, 3])))
    assert open_store(tmp_path / "store", verify=True).content_hash == written.content_hash
    damage(tmp_path / "store")
    open_store(tmp_path / "store")
    with pytest.raises(InputError, match="is damaged: its arrays do not have its content hash"):
        open_store(tmp_path / "store", verify=True)


def test_each_form_of_a_store_has_the_hash_that_it_was_written_with(tmp_path):
    lists = pa.array([["Zoë", "a,b"], []], store_module.ATTRIBUTES_TYPE)
    plain = a_store()
    with_attributes = sequence_store(
        plain.items, plain.offsets, plain.item_keys, plain.user_keys, plain.titles, attributes=lists
    )
    for number, store in enumerate([plain, a_store(titles=None), with_attributes, store_from_sequences([[], [3, 1]])]):
        write_store(tmp_path / str(number), store)
        assert open_store(tmp_path / str(number), verify=True).content_hash == store.content_hash


def test_a_flipped_byte_of_a_table_is_found_when_it_is_read(tmp_path):
    write_store(tmp_path / "store", a_store())
    for name, keys in (("items.parquet", "item_keys"), ("users.parquet", "user_keys")):
        file = tmp_path / "store" / name
        content = bytearray(file.read_bytes())
        content[50] ^= 1  # among the values of the first column
        file.write_bytes(content)
        with pytest.raises(InputError, match=f"{name} is missing or damaged"):
            getattr(open_store(tmp_path / "store"), keys)
        with pytest.raises(InputError, match=f"{name} is missing or damaged"):
            open_store(tmp_path / "store", verify=True)
        content[50] ^= 1
        file.write_bytes(content)


@pytest.mark.parametrize(
    "preparation",
    [["steps"], "steps", 7, {"steps": [1]}, {"split": "temporal"}, {"categories": {"part": "test"}}, {"counts": {}}],
)
def test_a_preparation_of_another_type_is_refused(tmp_path, preparation):
    write_store(tmp_path / "store", a_store())
    edit_manifest(tmp_path / "store", preparation=preparation)
    with pytest.raises(InputError, match="prepare the data again"):
        read_preparation(tmp_path / "store")


def test_a_store_that_another_process_is_changing_is_not_changed(tmp_path):
    before = write_store(tmp_path / "store", a_store())
    program = f"""
from seqrec.data.directories import replacing_directory
with replacing_directory({str(tmp_path / "store")!r}):
    print("inside", flush=True)
    input()
    raise SystemExit
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "inside\n"
        with pytest.raises(InputError, match="store is in use by another process; start again when that has ended"):
            write_store(tmp_path / "store", store_from_sequences([[1]]))
        assert open_store(tmp_path / "store").content_hash == before.content_hash
        process.communicate("\n")
    assert write_store(tmp_path / "store", store_from_sequences([[1]])).n_events == 1


@pytest.mark.parametrize(
    ("sequences", "n_items", "message"),
    [
        ([[1, 0]], None, "item id 0 is outside 1..n_items=1"),
        ([[1, -3]], 2, "item id -3"),
        ([[1, 4]], 3, "item id 4 is outside 1..n_items=3"),
        ([], None, "0 items"),
    ],
)
def test_ids_outside_the_catalogue_are_refused(sequences, n_items, message):
    with pytest.raises(InputError, match=message):
        store_from_sequences(sequences, n_items=n_items)


def test_arrays_that_do_not_fit_together_are_refused():
    items, keys = np.array([1, 1]), np.array([1])
    with pytest.raises(InputError, match="offsets must rise from 0 to n_events=2"):
        sequence_store(items, np.array([0, 1]), keys, keys)
    with pytest.raises(InputError, match="3 offsets for 1 users"):
        sequence_store(items, np.array([0, 1, 2]), keys, keys)
    with pytest.raises(InputError, match="2 titles for 1 items"):
        sequence_store(items, np.array([0, 2]), keys, keys, np.array(["a", "b"], dtype=object))


def with_columns(**columns):
    return sequence_store(np.array([2, 1, 2]), np.array([0, 1, 3]), np.array([5, 6]), np.array([7, 8]), columns=columns)


def test_event_columns_lie_beside_the_items_and_are_memory_mapped(tmp_path):
    columns = {
        "timestamp_us": np.array([3, 1, 2]),
        'ra/ti"ng': np.array([0.5, np.nan, 1.0]),
        "session": np.array([0, 0, 1], np.int32),
        "played": np.array([True, False, True]),
    }
    store = with_columns(**columns)
    opened = write_store(tmp_path / "store", store)
    assert opened.content_hash == store.content_hash
    assert opened.columns.keys() == columns.keys()
    for name, values in columns.items():
        assert isinstance(opened.columns[name], np.memmap)
        assert opened.columns[name].dtype == values.dtype
        np.testing.assert_array_equal(opened.columns[name], values)


def test_event_columns_enter_the_hash_and_their_order_does_not():
    none, ones, twos = np.array([0, 0, 0]), np.array([1, 1, 1]), np.array([2, 2, 2])
    stores = [
        with_columns(),
        with_columns(a=ones),
        with_columns(b=ones),
        with_columns(a=none),
        with_columns(a=ones, b=twos),
    ]
    assert len({store.content_hash for store in stores}) == len(stores)
    assert with_columns(b=twos, a=ones).content_hash == stores[-1].content_hash


def test_a_store_without_event_columns_hashes_as_it_did_before_there_were_any():
    store = store_from_sequences([[1, 2], [2]])
    digest = hashlib.sha256(b"seqrec sequence store 1\n")
    for name, dtype, values in [
        ("items", "<i4", [1, 2, 2]),
        ("offsets", "<i8", [0, 2, 3]),
        ("item_keys", "<i8", [1, 2]),
        ("user_keys", "<i8", [1, 2]),
    ]:
        digest.update(f"{name} int {len(values)}\n".encode() + np.array(values, dtype).tobytes())
    assert store.content_hash == digest.hexdigest()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1, 2]), "'a' has 2 values for 3 events"),
        (np.array(["x", "y", "z"]), "number its values"),
        (np.array([2**63] * 3, np.uint64), "is uint64"),
    ],
)
def test_event_columns_that_a_store_cannot_hold_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        with_columns(a=values)


def test_how_a_store_was_made_and_its_side_tables_come_with_it(tmp_path):
    write_store(tmp_path / "store", a_store(), preparation={"x": [1]}, side_tables={"rejected": pa.table({"a": [1]})})
    assert read_preparation(tmp_path / "store") == {"x": [1]}
    assert pq.read_table(tmp_path / "store" / "rejected.parquet").to_pydict() == {"a": [1]}
    write_store(tmp_path / "store", a_store())
    assert read_preparation(tmp_path / "store") == {}
    assert not (tmp_path / "store" / "rejected.parquet").exists()


def test_attributes_and_counts_stand_beside_the_titles(tmp_path):
    lists = pa.array([["Zoë", "a,b"], []], store_module.ATTRIBUTES_TYPE)
    plain = a_store()
    arrays = (plain.items, plain.offsets, plain.item_keys, plain.user_keys, plain.titles)
    store = sequence_store(*arrays, attributes=lists)
    opened = write_store(tmp_path / "store", store)
    assert opened.attributes.to_pylist() == lists.to_pylist()
    assert opened.content_hash == store.content_hash != plain.content_hash
    others = [[["Zoë"], ["a,b"]], [["Zoë", "a", "b"], []], [[], []]]
    hashes = {
        sequence_store(*arrays, attributes=pa.array(other, store_module.ATTRIBUTES_TYPE)).content_hash
        for other in others
    }
    assert len(hashes | {store.content_hash, plain.content_hash}) == len(others) + 2
    assert pq.read_table(tmp_path / "store" / "items.parquet")["n_events"].to_pylist() == [1, 2]
    with pytest.raises(InputError, match="2 lists of attributes for 1 items"):
        sequence_store(np.array([1]), np.array([0, 1]), np.array([1]), np.array([1]), attributes=lists)
