"""Facts about the page of kept studies: what it shows is what study.json holds, without where anything lay."""

import pytest
from study_runs import runs_of_a_study

from seqrec.files import write_json
from seqrec.report.kept_results import condense_study
from seqrec.report.studies_page import MARK, studies_page
from seqrec.report.study_figures import study_figures
from seqrec.types import InputError

EMPTY = f"before\n<!-- {MARK} -->\n<!-- end of {MARK} -->\nafter\n"


def a_study(directory, state="done"):
    names, seeds = ["ids", "genres", "shuffled"], (0, 1, 2)
    study = {
        "study": {"experiment": "sasrec", "minutes": 12.3, "level": 0.95, "output": str(directory), "base": "ids="},
        "data": {"split": "leave last out", "content_hash": "a" * 64, "split_hash": "b" * 64},
        "arms": {"ids": f"--data-path {directory}/plays.csv --d-model 8", "genres": "--item-features attributes",
                 "shuffled": "--shuffled-features attributes"},
        "runs": [{"name": "genres", "seed": 2, "state": state}],
        "versions": {"jax": "0.10", "device": "1 x cpu"},
        **study_figures(names, seeds, runs_of_a_study(seeds)),
    }  # fmt: skip
    write_json(directory / "study.json", study)
    return study


def test_a_kept_study_does_not_say_where_files_lay(tmp_path):
    a_study(tmp_path)
    kept = condense_study(tmp_path)
    assert str(tmp_path) not in str(kept)
    assert kept["arms"]["ids"] == "--data-path plays.csv --d-model 8"


def test_the_page_shows_the_verdicts_and_the_command(tmp_path):
    study = a_study(tmp_path)
    text = studies_page(EMPTY, {"toy-genres": condense_study(tmp_path)}, {}, defaults={})
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    rows = {line.split(" | ")[0].strip("| *"): line for line in text.splitlines() if line.startswith("|")}
    assert study["variations"]["genres"]["verdict"]["kind"] == "helps"
    assert "**helps** by" in rows["genres"]
    assert "no difference larger than" in rows["shuffled"]
    # Twice as slow, and a tenth larger.
    minutes = {name: f"{cost['train_minutes']:.1f}" for name, cost in study["costs"].items()}
    assert rows["ids"].endswith(f"| 1,000 | 0.0 MB | 1.00 x | {minutes['ids']} |")
    assert rows["genres"].endswith(f"| 1,100 | 0.0 MB | 2.00 x | {minutes['genres']} |")
    assert '--base "ids=--data-path plays.csv --d-model 8"' in text
    assert '--variations "genres=--item-features attributes"' in text
    assert studies_page(text, {"toy-genres": condense_study(tmp_path)}, {}, defaults={}) == text


def test_the_page_has_the_users_that_are_hardest_to_serve(tmp_path):
    study = a_study(tmp_path)
    text = studies_page(EMPTY, {"toy-genres": condense_study(tmp_path)}, {}, defaults={})
    hard = [each["slices"][0] for each in study["slices"] if each["column"] in ("target_events", "history_length")]
    assert hard
    for first in hard:
        assert f": {first['label']} ({first['n_users']:,}) |" in text


def test_an_unfinished_study_is_not_kept(tmp_path):
    a_study(tmp_path, state="left")
    with pytest.raises(InputError, match="genres, seed 2 is not done; let the study finish first"):
        condense_study(tmp_path)
