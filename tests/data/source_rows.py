"""What tests of readers share: the events of a source as rows, and the message of a refusal."""

from datetime import UTC, datetime, timedelta

import pytest

from seqrec.data.sources import Columns, read_source
from seqrec.types import InputError

BOM = b"\xef\xbb\xbf"
NO_TIMES = Columns("user_id", "item_id", "none")


def rows_of(source, *further):
    """(user, item) or (user, item, microseconds) of each event, and the further columns, in file order."""
    table = source.events.sort("event_index").collect("pyarrow").to_native()
    assert table["event_index"].to_pylist() == list(range(table.num_rows))
    names = [name for name in ("user_id", "item_id", "timestamp_us") if name in table.column_names]
    return list(zip(*(table[name].to_pylist() for name in (*names, *further)), strict=True))


def titles_of(source):
    return None if source.titles is None else dict(zip(*(column.to_pylist() for column in source.titles), strict=True))


def attributes_of(source):
    return dict(zip(*(column.to_pylist() for column in source.attributes), strict=True))


def microseconds(*moment, zone=UTC):
    return (datetime(*moment, tzinfo=zone) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def refusal(dataset, path, **options):
    with pytest.raises(InputError) as caught:
        read_source(dataset, path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
