"""A reader of HTML pages that says whether they are whole and what they refer to."""

import html.parser

VOID = {"meta", "br", "img"}


class PageReader(html.parser.HTMLParser):
    """Tags, links, ids and words of a page; refuses a page whose elements are not closed in order."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.words = [], [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        """The page's words, with single spaces."""
        return " ".join(" ".join(self.words).split())

    def stands_alone(self) -> bool:
        """Whether the page loads nothing: it has no script and links only to its own parts."""
        own = {f"#{name}" for name in self.ids}
        return set(self.links) <= own and not {"script", "link", "iframe"} & set(self.tags)
