"""The page of a study: verdicts first, nothing linked, names as they are."""

import re

import pytest
from page_reader import PageReader
from study_runs import runs_of_a_study

from seqrec.report.study_figures import study_figures
from seqrec.report.study_page import as_text, page

NAMES = ("ids", "genres", "shuffled")


def study_result(runs, **changes):
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
    html = page(study_result(runs_of_a_study()))
    verdicts = re.findall('<div class="verdict ?([a-z]*)"><p>(.*?)</p>', html)
    assert [kind for kind, _ in verdicts] == ["good", ""]
    assert verdicts[0][1].startswith("genres helps by ")
    assert verdicts[1][1].startswith("shuffled: no difference larger than ")
    assert html.index("genres helps by") < html.index("<svg") < html.index("<h2>Costs")


def test_the_page_is_whole_and_links_to_nothing():
    html = page(study_result(runs_of_a_study()))
    reader = PageReader(html)
    assert reader.stands_alone()
    assert "<genres>" in reader.text
    assert "<genres>" not in html
    assert "train --seed 2" in " ".join(reader.text.split())


def test_the_title_names_the_data_and_not_its_form():
    study = study_result(runs_of_a_study(), data={"dataset": "s3rec", "name": "Beauty"})
    assert "<h1>What helps sasrec on Beauty?</h1>" in page(study)


def test_a_verdict_that_the_correction_decided_says_so():
    study = study_result(runs_of_a_study())
    shuffled = study["variations"]["shuffled"]
    shuffled["ndcg@10"] |= {"difference": 0.0049, "interval": [0.0007, 0.0091], "p": 0.022, "p_holm": 0.088}
    shuffled["verdict"] = {"kind": "none", "size": 0.0091}
    assert (
        "shuffled: no difference larger than .0091 (.0049 [.0007, .0091]; p = .022 alone, .088 corrected for 2)"
        in as_text(study)
    )


def test_what_did_not_finish_is_on_the_page_and_in_the_text():
    study = study_result([run for run in runs_of_a_study() if run.name != "shuffled"])
    study["runs"] += [{"name": "shuffled", "seed": 0, "state": "failed", "failure": "the loss is nan", "command": ""}]
    assert "the loss is nan" in page(study)
    printed = as_text(study)
    assert "shuffled, seed 0 failed: the loss is nan" in printed
    assert "Not compared, because runs are missing: shuffled" in printed


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_one_seed_is_said_wherever_a_verdict_is(seeds):
    study = study_result(runs_of_a_study(seeds))
    assert ("in these very runs" in as_text(study)) == (len(seeds) == 1)
    assert ("seed 0 alone" in page(study)) == (len(seeds) == 1)
