"""What a gate found: as printed, as Markdown for a pull request, and as JUnit XML for a build server."""

import json
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np

from seqrec.report.comparison_text import decimal, markdown_table, metric_label, text_table
from seqrec.report.gate import ALL_USERS

_HEADS = ("metric", "users in", "users", "incumbent", "candidate", "drop", "at least", "at most", "margin", "verdict")
_NOT_IN_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


def headline(gate: Mapping[str, Any]) -> str:
    """The verdict in one sentence."""
    n, level = len(gate["tests"]), f"{100 * gate['level']:g}%"
    reason = {
        "pass": "every drop is within its margin",
        "fail": "a drop is beyond its margin",
        "cannot tell": "these users cannot tell whether a drop is beyond its margin",
    }[gate["verdict"]]
    if gate["verdict"] == "cannot tell" and all(test["verdict"] == "pass" for test in gate["tests"]):
        reason = "a slice has no users"
    corrected = f", corrected for {n} tests" if n > 1 else ""
    return f"{gate['verdict']}: {gate['candidate']} in place of {gate['incumbent']}: {reason} ({level}{corrected})"


def sentence(test: Mapping[str, Any]) -> str:
    """What a test found, in words.

    >>> test = {"metric": "ndcg@10", "slice": "all", "drop": 0.001, "lower": -0.001, "upper": 0.003, "margin": 0.002}
    >>> sentence({**test, "verdict": "cannot tell", "n_users": 500, "n_users_needed": 2000})
    'NDCG@10 drops by .0010 [-.0010, .0030], with a margin of .002; about 2,000 users could tell if the drop stays'
    """
    of = "" if test["slice"] == ALL_USERS else f" of {test['slice']}"
    text = f"{metric_label(test['metric'])}{of} drops by {decimal(test['drop'])}"
    text += f" [{decimal(test['lower'])}, {decimal(test['upper'])}], with a margin of {_margin(test)}"
    if test["verdict"] == "cannot tell" and test["n_users_needed"]:
        text += f"; about {test['n_users_needed']:,} users could tell if the drop stays"
    return text


def as_text(gate: Mapping[str, Any]) -> str:
    """The table of tests, what would decide those that are open, notes, and the verdict as the last line."""
    undecided = [sentence(test) for test in gate["tests"] if test["verdict"] == "cannot tell"]
    notes = [f"note: {note}" for note in gate["notes"]]
    return "\n".join([*text_table([_HEADS, *map(_cells, gate["tests"])]), *undecided, *notes, headline(gate)])


def as_json(gate: Mapping[str, Any]) -> str:
    """All figures."""
    return json.dumps(gate, indent=2) + "\n"


def as_markdown(gate: Mapping[str, Any]) -> str:
    """A summary for a pull request: the verdict, a table and the notes."""
    rows = ([cell.replace("|", "\\|") for cell in _cells(test)] for test in gate["tests"])
    table = markdown_table(_HEADS, rows, alignment=("---", "---", *["---:"] * 7, "---"))
    notes = [f"- {note}" for note in gate["notes"]]
    return "\n".join([f"**{headline(gate)}**", "", *table[:-1], *[""][: len(notes)], *notes, ""])


def as_junit(gate: Mapping[str, Any]) -> str:
    """JUnit's XML with a case for each test: beyond its margin is a failure, and not decided an error."""
    kinds = {"fail": "failure", "cannot tell": "error"}
    counts = {f"{kind}s": str(sum(test["verdict"] == name for test in gate["tests"])) for name, kind in kinds.items()}
    suite = ElementTree.Element("testsuite", {"name": "gate", "tests": str(len(gate["tests"])), **counts})
    for test in gate["tests"]:
        name = f"{test['metric']} of {test['slice']}"
        case = ElementTree.SubElement(suite, "testcase", classname=_in_xml(gate["candidate"]), name=_in_xml(name))
        if test["verdict"] in kinds:
            message = _in_xml(sentence(test))
            ElementTree.SubElement(case, kinds[test["verdict"]], type=test["verdict"], message=message)
    ElementTree.indent(suite)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(suite, encoding="unicode")}\n'


def _cells(test: Mapping[str, Any]) -> list[str]:
    numbers = [decimal(test[name]) for name in ("incumbent", "candidate", "drop", "lower", "upper")]
    cells = [metric_label(test["metric"]), test["slice"], f"{test['n_users']:,}", *numbers]
    return [*cells, _margin(test), test["verdict"]]


def _margin(test: Mapping[str, Any]) -> str:
    return np.format_float_positional(test["margin"], trim="-").removeprefix("0") or "0"


def _in_xml(text: str) -> str:
    """Without characters that XML cannot hold."""
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
