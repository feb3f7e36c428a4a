"""Named data sets, each on a small file of the form that its publisher describes."""

import gzip
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_rows import attributes_of, microseconds, refusal, rows_of, titles_of

from seqrec.data.sources import Columns, read_source

# RecBole

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\nann\t7\t4\t978300760.0\nbob\t9\t3\t978300761\n"


def test_atomic_files_have_typed_names_and_sequences(write):
    path = write(INTER, "toy.inter")
    write(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        '7\tSay "hi"\t1995\tDrama War\n9\t\t\t\n',
        "toy.item",
    )
    write("user_id:token\tage:float\nann\t7\n", "toy.user")
    for place in (path, path.parent):
        source = read_source("recbole", place, extra=["rating"])
        assert rows_of(source, "rating") == [("ann", 7, 978300760 * 10**6, 4), ("bob", 9, 978300761 * 10**6, 3)]
        assert titles_of(source) == {7: 'Say "hi"', 9: ""}
        assert attributes_of(source) == {7: ["Drama", "War"], 9: []}


def test_sequences_with_commas_are_parted_there_and_ids_of_text_stay_text(write):
    path = write("user_id:token\titem_id:token\n1\tB0\n1\t7\n", "toy.inter")
    write("item_id:token\tname:token_seq\tgenre:token_seq\n7\tSeven\tSci-Fi, Film Noir\n", "toy.item")
    source = read_source("recbole", path)
    assert rows_of(source) == [(1, "B0"), (1, "7")]
    assert titles_of(source) == {"7": "Seven"}
    assert attributes_of(source) == {"7": ["Sci-Fi", "Film Noir"]}


def test_atomic_files_may_name_their_columns_otherwise(write):
    path = write("listener:token\ttrack:token\tat:float\n1\t2\t1600000000\n", "toy.inter")
    expected = [(1, 2, 1_600_000_000 * 10**6)]
    assert rows_of(read_source("recbole", path, columns=Columns("listener", "track", "at"))) == expected
    assert "has no column 'user_id'" in refusal("recbole", path)


def test_the_three_files_of_a_published_split_are_read_in_their_order(write):
    header = "user_id:token\titem_id:token\n"
    for part, item in (("test", 3), ("valid", 2), ("train", 1)):
        path = write(f"{header}7\t{item}\n", f"toy.{part}.inter")
    write("item_id:token\ttitle:token_seq\n1\tOne\n3\tThree\n", "toy.item")
    source = read_source("recbole", path.parent)
    assert rows_of(source) == [(7, 1), (7, 2), (7, 3)]
    assert titles_of(source) == {1: "One", 3: "Three"}
    write(f"{header}7\t4\n", "toy.more.inter")
    assert "holds 4 .inter files; name one" in refusal("recbole", path.parent)


def test_atomic_files_of_histories_are_refused(write):
    path = write("user_id:token\titem_id_list:token_seq\titem_id:token\n1\t2 3\t4\n", "toy.train.inter")
    assert "has a history in each row (item_id_list)" in refusal("recbole", path)


@pytest.mark.parametrize(
    ("inter", "item", "message"),
    [
        ("user_id\titem_id\n1\t2\n", None, "toy.inter:1: the column 'user_id' has no type of token, token_seq"),
        ("user_id:token\titem_id:token\n1\n", None, "toy.inter:2: '1' has 1 field, 2 are due"),
        (INTER, "item_id:token\tx:token\n7\n", "toy.item:2: 1 fields, 2 are due"),
        (INTER, "id:token\tx:token\n7\t8\n", "toy.item has no column 'item_id'"),
        (INTER, b"item_id:token\tx:token\n7\t\xff\n", "toy.item:2: bytes that are not UTF-8"),
    ],
)
def test_atomic_files_that_cannot_be_read_are_refused(write, inter, item, message):
    path = write(inter, "toy.inter")
    if item is not None:
        write(item, "toy.item")
    assert message in refusal("recbole", path)


# Amazon reviews

ASINS = ("B00002243X", "0972683275")


def test_ratings_without_a_header_are_known_by_the_form_of_item_ids(write, caplog):
    caplog.set_level(logging.INFO)
    users = ("A2CX7LUOHB2NDG", "A1NM0RRRO2Y0G7")
    expected = [(users[0], ASINS[0], 1_356_048_000 * 10**6, 5), (users[1], ASINS[1], 1_404_950_400 * 10**6, 1)]
    user_first = "".join(f"{u},{i},{r}.0,{t // 10**6}\n" for u, i, t, r in expected)
    item_first = "".join(f"{i},{u},{r}.0,{t // 10**6}\n" for u, i, t, r in expected)
    for name, content in (("2014.csv", user_first), ("2018.csv.gz", gzip.compress(item_first.encode(), mtime=0))):
        assert rows_of(read_source("amazon", write(content, name), extra=["rating"]), "rating") == expected
    assert "user, item, rating, timestamp" in caplog.text
    assert "item, user, rating, timestamp" in caplog.text


def test_ratings_of_2023_have_a_header_and_milliseconds(write):
    path = write(f"user_id,parent_asin,rating,timestamp\nAE,{ASINS[0]},4.0,1588687728923\n", "Books.csv")
    assert rows_of(read_source("amazon", path)) == [("AE", ASINS[0], 1_588_687_728_923_000)]


@pytest.mark.parametrize(
    ("review", "meta", "at"),
    [
        (
            {"reviewerID": "A2", "asin": ASINS[0], "overall": 5.0, "unixReviewTime": 1356048000, "summary": 'a "b",'},
            {"asin": ASINS[0], "title": "One\ttwo", "category": ["Auto", "Tools"]},
            1_356_048_000_000_000,
        ),
        (
            {"rating": 5.0, "title": "no title of an item", "images": [{"a": 1}], "asin": "B000000000",
             "parent_asin": ASINS[0], "user_id": "A2", "timestamp": 1588687728923},
            {"parent_asin": ASINS[0], "title": "One\ttwo", "categories": ["Auto", "Tools"]},
            1_588_687_728_923_000,
        ),
    ],
)  # fmt: skip
def test_reviews_are_json_lines_with_a_meta_file_beside_them(write, review, meta, at):
    path = write(gzip.compress(json.dumps(review).encode() + b"\n\n", mtime=0), "Auto.jsonl.gz")
    write(json.dumps(meta) + "\n" + json.dumps({**meta, "title": None}).replace(ASINS[0], ASINS[1]), "meta_Auto.jsonl")
    for place in (path, path.parent):
        source = read_source("amazon", place)
        assert rows_of(source) == [("A2", ASINS[0], at)]
        assert titles_of(source) == {ASINS[0]: "One\ttwo", ASINS[1]: ""}
        assert attributes_of(source)[ASINS[0]] == ["Auto", "Tools"]


def test_a_meta_file_of_python_code_is_not_run(write):
    path = write('{"reviewerID": "A2", "asin": "B1", "unixReviewTime": 1356048000}\n', "reviews_Auto_5.json")
    write("{'asin': 'B1', 'title': exit()}\n", "meta_Auto.json")
    assert "meta_Auto.json:1: the line is no JSON object with asin" in refusal("amazon", path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"user": "A2"}\n', "has 'user'; reviews have reviewerID, asin, unixReviewTime or user_id"),
        ("a,b,c\n", "data.txt:1: 'a,b,c' begins neither JSON lines nor a csv"),
    ],
)
def test_what_holds_no_reviews_is_refused(write, content, message):
    assert message in refusal("amazon", write(content))


# Listening logs


def test_tracks_without_an_id_of_lastfm_1k_go_by_their_names(write):
    plays = [
        ("user_000001", "2009-05-04T23:08:57Z", "a-id", 'The "Quotes"', "t-id", "One"),
        ("user_000001", "2009-05-04T13:54:10Z", "a-id", 'The "Quotes"', "", '"Two'),
        ("user_000002", "2009-05-04T13:54:10Z", "", "", "", ""),
        ("user_000002", "2009-05-05T13:54:10Z", "", 'The "Quotes"', "", '"Two'),
    ]
    path = write("".join("\t".join(play) + "\n" for play in plays), "userid-timestamp-artid-artname-traid-traname.tsv")
    two = 'The "Quotes" - "Two'
    for place in (path, path.parent):
        source = read_source("lastfm-1k", place)
        assert rows_of(source) == [
            ("user_000001", "t-id", microseconds(2009, 5, 4, 23, 8, 57)),
            ("user_000001", two, microseconds(2009, 5, 4, 13, 54, 10)),
            ("user_000002", None, microseconds(2009, 5, 4, 13, 54, 10)),
            ("user_000002", two, microseconds(2009, 5, 5, 13, 54, 10)),
        ]
        assert titles_of(source) == {"t-id": 'The "Quotes" - One', two: two}
        assert attributes_of(source) == {"t-id": ['The "Quotes"'], two: ['The "Quotes"']}


def test_yambda_is_read_flat_and_in_lists(tmp_path):
    """uint32 columns, and seconds in steps of 5 since a moment that is not published."""
    flat = {"uid": [3, 3, 9], "item_id": [7, 8, 7], "timestamp": [5, 25_911_800, 0], "is_organic": [1, 0, 1]}
    unsigned = {name: pa.array(values, pa.uint32()) for name, values in flat.items()}
    event_type = pa.array(["listen", "like", "listen"]).dictionary_encode()
    pq.write_table(pa.table({**unsigned, "event_type": event_type}), tmp_path / "flat.parquet")
    options = {"extra": ["is_organic"], "categories": {"event_type": ()}}
    source = read_source("yambda", tmp_path / "flat.parquet", **options)
    expected = [(3, 7, 5 * 10**6, 1, 1), (3, 8, 25_911_800 * 10**6, 0, 0), (9, 7, 0, 1, 1)]
    assert rows_of(source, "is_organic", "event_type") == expected
    assert source.categories == {"event_type": ("like", "listen")}

    def lists(values, kind=None):
        return pa.array([values[:2], values[2:]], pa.list_(kind or pa.uint32()))

    for names in (("item_id", "timestamp"), ("item_ids", "timestamps")):
        sequential = {
            "uid": pa.array([3, 9], pa.uint32()),
            **{name: lists(flat[kind]) for name, kind in zip(names, ("item_id", "timestamp"), strict=True)},
            "is_organic": lists(flat["is_organic"]),
            "event_type": lists(["listen", "like", "listen"], pa.string()),
        }
        pq.write_table(pa.table(sequential), tmp_path / "lists.parquet")
        assert (
            rows_of(read_source("yambda", tmp_path / "lists.parquet", **options), *options["extra"], "event_type")
            == expected
        )


def test_lists_of_different_lengths_are_refused_with_their_row(tmp_path):
    lists = {"uid": [1, 2], "item_id": [[1], [2, 3]], "timestamp": [[5], [10]]}
    pq.write_table(pa.table(lists), tmp_path / "lists.parquet")
    assert "lists.parquet, row 2: its lists item_id, time are of different lengths" in refusal(
        "yambda", tmp_path / "lists.parquet"
    )
    (tmp_path / "text").write_text("uid,item_id,timestamp\n1,2,3\n")
    assert "is no Parquet file" in refusal("yambda", tmp_path / "text")


# Clicks


def test_yoochoose_is_read_as_published_and_as_prepared(write):
    clicks = "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,S\n"
    path = write(clicks, "yoochoose-clicks.dat")
    write("420374,2014-04-06T18:44:58.314Z,214537888,12462,1\n", "yoochoose-buys.dat")
    first, second = microseconds(2014, 4, 7, 10, 51, 9, 277_000), microseconds(2014, 4, 7, 10, 54, 9, 868_000)
    for place in (path, path.parent):
        source = read_source("yoochoose", place, categories={"Category": ()})
        assert rows_of(source, "Category") == [(1, 214536502, first, 0), (1, 214536500, second, 1)]
        assert source.categories == {"Category": ("0", "S")}
    prepared = "SessionId\tItemId\tTime\n{}\t214536502\t1396867869.277\n"
    write(prepared.format(2), "prepared/train.txt")
    write(prepared.format(1), "prepared/test.txt")
    assert rows_of(read_source("yoochoose", path.parent / "prepared")) == [(1, 214536502, first), (2, 214536502, first)]
    assert "yoochoose-buys.dat:1: '420374,2014" in refusal("yoochoose", path.parent / "yoochoose-buys.dat")
