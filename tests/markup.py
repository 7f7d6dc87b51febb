"""HTML read strictly: every tag that is opened is closed in its turn."""

import html.parser


class Markup(html.parser.HTMLParser):
    """texts: in the order of the page; rows: of all tables, the text of each cell."""

    EMPTY = ("meta", "img", "source", "rect", "path", "br", "hr")

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.rows = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        if tag not in self.EMPTY:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open[-1:] in (["td"], ["th"]):
            self.rows[-1][-1] += data

    @property
    def text(self):
        return "".join(self.texts)
