"""Shows the doctests of docstrings as code: Markdown would take `>>>` for three quotations."""

import re

import griffe

DOCTEST = re.compile(r"^( *)>>> .*(?:\n\1\S.*)*", re.MULTILINE)


class FenceDoctests(griffe.Extension):
    """Puts each doctest of a docstring into a fence."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Called for everything that has a docstring."""
        if obj.docstring is not None:
            obj.docstring.value = DOCTEST.sub(r"\1```pycon\n\g<0>\n\1```", obj.docstring.value)
