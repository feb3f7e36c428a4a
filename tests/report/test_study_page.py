"""The page of a study: verdicts first, nothing linked, names as they are."""

import re
from html.parser import HTMLParser

import pytest
from study_runs import runs_of_a_study

from seqrec.report.study_figures import study_figures
from seqrec.report.study_page import as_text, page

NAMES = ("ids", "genres", "shuffled")


def found_of(runs, **changes):
    """As study.json has it."""
    states = [
        {"name": run.name, "seed": run.seed, "state": "done", "failure": None, "command": f"train --seed {run.seed}"}
        for run in runs
    ]
    return {
        "study": {"experiment": "sasrec"},
        "data": {"dataset": "music"},
        "arms": {"ids": "--d-model 32", "genres": "--item-features <genres>", "shuffled": ""},
        "runs": states,
        "versions": {"device": "1 x cpu (cpu)"},
        **study_figures(NAMES, (0, 1, 2), runs),
        **changes,
    }


def test_verdicts_stand_before_the_first_picture():
    html = page(found_of(runs_of_a_study()))
    verdicts = re.findall('<p class="verdict ?([a-z]*)">(.*?)</p>', html)
    assert [kind for kind, _ in verdicts] == ["better", ""]
    assert verdicts[0][1].startswith("genres helps by ")
    assert verdicts[1][1].startswith("shuffled: no difference larger than ")
    assert html.index("genres helps by") < html.index("<svg") < html.index("What it costs")


def test_the_page_is_whole_and_links_to_nothing():
    html = page(found_of(runs_of_a_study()))
    opened = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag in ("p", "table", "details", "div", "svg", "pre", "code"):
                opened.append(tag)
            assert not {"src", "href"} & {name for name, value in attributes if not (value or "").startswith("#")}

        def handle_endtag(self, tag):
            if tag in ("p", "table", "details", "div", "svg", "pre", "code"):
                assert opened.pop() == tag

    Tags().feed(html)
    assert opened == []
    assert "&lt;genres&gt;" in html
    assert "<genres>" not in html
    assert "train --seed 2" in html


def test_what_did_not_finish_is_on_the_page_and_in_the_text():
    found = found_of([run for run in runs_of_a_study() if run.name != "shuffled"])
    found["runs"] += [{"name": "shuffled", "seed": 0, "state": "failed", "failure": "the loss is nan", "command": ""}]
    assert "the loss is nan" in page(found)
    printed = as_text(found)
    assert "shuffled, seed 0 failed: the loss is nan" in printed
    assert "Not judged" in printed


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_one_seed_is_said_wherever_a_verdict_is(seeds):
    found = found_of(runs_of_a_study(seeds))
    assert ("in these very runs" in as_text(found)) == (len(seeds) == 1)
    assert ("seed 0 alone" in page(found)) == (len(seeds) == 1)
