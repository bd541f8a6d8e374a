"""A page as a tree, by the standard library: what is in it without a browser."""

import base64
import gzip
import json
from html.parser import HTMLParser
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder

_EMPTY = ("meta", "br", "input", "link", "img", "hr")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.builder, self.open = TreeBuilder(), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in _EMPTY:
            self.builder.end(tag)
        else:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        self.builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _EMPTY:
            return
        assert self.open.pop() == tag, f"</{tag}> closes another element"
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        self.builder.data(data)


def read(text: str) -> Element:
    """The tree. Every element must be closed where it was opened."""
    reader = _Reader()
    reader.feed(text.partition("\n")[2])
    reader.close()
    return reader.builder.close()


def said(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def by_id(root: Element, name: str) -> Element:
    (found,) = (e for e in root.iter() if e.get("id") == name)
    return found


def of_class(root: Element, name: str) -> list[Element]:
    return [e for e in root.iter() if name in e.get("class", "").split()]


def rows(table: Element) -> list[list[str]]:
    return [[said(cell) for cell in row if cell.tag in ("td", "th")] for row in table.iter("tr")]


def table(root: Element, caption: str) -> list[list[str]]:
    (found,) = (
        t for t in root.iter("table") if any(said(c).startswith(caption) for c in t.iter("caption"))
    )
    return rows(found)


def answers_in(root: Element) -> list[dict[str, Any]]:
    """What the page's script unpacks."""
    packed = by_id(root, "answers-data").text
    assert packed is not None
    found: list[dict[str, Any]] = json.loads(gzip.decompress(base64.b64decode(packed)))
    return found
