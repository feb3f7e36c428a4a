"""A store's figures against slow walks over its events, and the page that shows them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seqrec.data.preparation import StepsConfig, prepare_store
from seqrec.data.sources import read_source
from seqrec.data.split_config import SplitConfig, split_store
from seqrec.data.splits import leave_last_out
from seqrec.data.store import sequence_store, store_from_sequences
from seqrec.report import data_profile as profiles
from seqrec.report.data_profile_page import page, write_profile

values_strategy = st.lists(st.one_of(st.integers(-3, 9), st.just(10**12)), min_size=1, max_size=30)
histories_strategy = st.lists(st.lists(st.integers(1, 5), max_size=8), min_size=1, max_size=6)


@given(values_strategy, values_strategy, st.sampled_from([np.int64, np.float64]))
def test_the_kolmogorov_smirnov_distance_is_that_of_scipy(reference, observed, dtype):
    distance = profiles.kolmogorov_smirnov(
        *(profiles.value_counts(np.array(values, dtype)) for values in (reference, observed))
    )
    assert distance == pytest.approx(stats.ks_2samp(reference, observed).statistic)


@given(values_strategy, values_strategy, st.integers(1, 6))
def test_the_stability_index_is_its_sum_over_the_bins(reference, observed, n_bins):
    edges = profiles.quantile_bins(profiles.value_counts(np.array(reference)), n_bins).tolist()
    assert edges == sorted(set(edges))
    assert len(edges) < n_bins
    counts = [[0.5] * (len(edges) + 1) for _ in range(2)]
    for place, values in enumerate((reference, observed)):
        for value in values:
            counts[place][sum(value >= edge for edge in edges)] += 1
    # Each bin has some of the reference: the first begins with the least of it, others at a value of it.
    assert min(counts[0]) >= 1
    total = 0.0
    for r, o in zip(*counts, strict=True):
        r, o = r / sum(counts[0]), o / sum(counts[1])
        total += (o - r) * math.log(o / r)
    drift = profiles.drift(
        *(profiles.value_counts(np.array(values)) for values in (reference, observed)), n_bins=n_bins
    )
    assert drift["psi"] == pytest.approx(total)


def test_bins_of_a_spread_reference_are_equal():
    reference = profiles.value_counts(np.random.default_rng(0).permutation(1000))
    assert profiles.quantile_bins(reference, 10).tolist() == list(range(100, 1000, 100))


def test_equal_windows_do_not_drift_and_missing_values_are_left_out():
    one, two = (profiles.value_counts(np.array(values)) for values in ([1.0, np.nan, 2.0], [np.nan, 2.0, 1.0]))
    assert profiles.drift(one, two) == {"psi": 0.0, "ks": 0.0}
    assert profiles.drift(one, profiles.value_counts(np.array([np.nan]))) is None


@given(histories_strategy, st.integers(1, 9))
def test_repeats_are_those_of_a_walk_whatever_the_block(histories, n_events_a_block):
    store = store_from_sequences(histories, n_items=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqrec.data.ragged.EVENTS_PER_BLOCK", n_events_a_block)
        is_repeat = profiles.is_repeat(store)
    expected = [item in history[:place] for history in histories for place, item in enumerate(history)]
    assert is_repeat.tolist() == expected


@given(histories_strategy)
def test_each_event_is_in_the_part_that_the_split_says(histories):
    histories = [*histories, [1, 2, 3]]
    store = store_from_sequences(histories, n_items=5)
    expected = []
    for history in histories:
        n = len(history)
        expected += [0] * (n - 2) + [1, 2] if n >= 3 else [0] * n
    assert profiles.part_of_events(store, leave_last_out(store)).tolist() == expected


@given(st.lists(st.integers(1, 10**6), max_size=40))
def test_a_histogram_by_doublings_has_every_number_in_its_bin(numbers):
    histogram = profiles.doubling_histogram(np.array(numbers, np.int64))
    assert [each["n"] for each in histogram] == [
        sum(each["low"] <= number <= each["high"] for number in numbers) for each in histogram
    ]
    assert sum(each["n"] for each in histogram) == len(numbers)


@given(st.lists(st.integers(0, 10**17), min_size=1, max_size=20))
def test_events_over_time_are_counted_in_few_equal_spans(times):
    spans = profiles.events_over_time(np.array(times, np.int64))
    assert sum(spans["counts"]) == len(times)
    assert len(spans["counts"]) <= profiles.MOST_BARS + 2
    for place, count in enumerate(spans["counts"]):
        low = spans["start_us"] + place * spans["span_us"]
        assert count == sum(low <= time < low + spans["span_us"] for time in times)


def test_figures_of_a_small_store_are_on_paper():
    # Items 1 1 2 | 3 1 | 1 2 4, at hours of the first day.
    store = sequence_store(
        np.array([1, 1, 2, 3, 1, 1, 2, 4]),
        np.array([0, 3, 5, 8]),
        item_keys=np.arange(4),
        user_keys=np.arange(3),
        columns={"timestamp_us": np.array([0, 5, 20, 1, 6, 2, 7, 21]) * 3_600_000_000},
    )
    config = SplitConfig(split="temporal", valid_start="1970-01-01T05:00", test_start="1970-01-01T20:00")
    profile = profiles.data_profile(store, split_store(store, config))
    # Seven pairs of 3 x 4 were met, one of them twice.
    assert profile["n_pairs"] == 7
    assert profile["sparsity"] == pytest.approx(5 / 12)
    assert profile["repeat_share"] == pytest.approx(1 / 8)
    training, validation, test = profile["parts"]
    # 1, 3 and 1 train; 1, 1 and 2 validate; 2 and 4, both unheard of in training, test.
    assert [part["n_events"] for part in profile["parts"]] == [3, 3, 2]
    assert training["cold_event_share"] == 0.0
    assert validation["cold_event_share"] == pytest.approx(1 / 3)
    assert validation["cold_item_share"] == pytest.approx(1 / 2)
    assert (test["cold_event_share"], test["cold_item_share"], test["cold_target_share"]) == (1.0, 1.0, 1.0)
    assert [each["variable"] for each in profile["drift"]][:2] == [
        "events of the item in training",
        "earlier events of the user",
    ]
    # In training nothing came after the second place; in the test everything did.
    assert profile["drift"][1]["test"]["ks"] == 1.0


def test_the_page_opens_offline_and_what_the_data_says_is_escaped(tmp_path):
    name = "<script>alert('x')</script>"
    lines = [f'user_id,item_id,timestamp,"{name}"']
    for user in range(9):
        lines += [f"{user},{(user * place) % 7},{86400 * place + user},{place % 3}" for place in range(9)]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    source = read_source("events", tmp_path / "log.csv", time_unit="s", extra=(name,))
    config = StepsConfig(min_column=name, min_value=1.0, max_events_per_day=1)
    prepare_store(source, tmp_path / "<b>", config, SplitConfig(split="temporal", valid_share=0.2, test_share=0.2))
    path = write_profile(tmp_path / "<b>")
    html = path.read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; at least 1" in html
    assert "Profile of &lt;b&gt;" in html
    assert "http" not in html.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    for step in ("found", "valid", "duplicates", "implausible users"):
        assert f"<td class=words>{step}</td>" in html


def test_a_store_without_times_has_a_profile_without_them():
    store = store_from_sequences([[1, 2, 3], [2, 3, 1]])
    profile = profiles.data_profile(store, leave_last_out(store))
    assert "over_time" not in profile
    assert "Events over time" not in page(profile)
