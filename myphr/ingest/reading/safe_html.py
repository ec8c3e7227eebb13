"""A stranger's markup made harmless: structure and words only. No link, picture, form, style, script or address.

Served in a sandboxed document besides (`web.previews`): two walls, because a sanitiser is a parser too.
"""

import html
import re
from collections.abc import Iterable, Sequence

import nh3

TAGS = frozenset(
    {
        "h1", "h2", "h3", "h4", "h5", "p", "br", "hr", "div", "span", "ul", "ol", "li", "dl", "dt", "dd", "table",
        "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "b",
        "strong", "i", "em", "u", "s", "sub", "sup", "small", "pre",
        "code", "blockquote", "cite", "q",
    }
)  # fmt: skip
_ATTRIBUTES = {"td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan", "scope"}, "ol": {"start"}}
_GONE_WITH_CONTENT = {"script", "style", "iframe", "object", "svg", "math", "template", "noscript", "title"}
_BLOCK = re.compile(r"</?(?:h\d|p|br|hr|div|ul|ol|li|dl|dt|dd|table|caption|tr|th|td|pre|blockquote)\b[^>]*>")
_TAG = re.compile(r"<[^>]*>")
_EMPTY_LINES = re.compile(r"\s*\n\s*")


def clean(markup: str) -> str:
    return nh3.clean(
        markup, tags=set(TAGS), attributes={tag: set(names) for tag, names in _ATTRIBUTES.items()},
        clean_content_tags=_GONE_WITH_CONTENT, url_schemes=set(), strip_comments=True, link_rel=None,
    )  # fmt: skip


def text_of(cleaned: str) -> str:
    """The words of markup that `clean` made, a line a block."""
    return _EMPTY_LINES.sub("\n", html.unescape(_TAG.sub("", _BLOCK.sub("\n", cleaned)))).strip()


def escape(text: object) -> str:
    return html.escape(str(text))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table of plain texts; columns that are empty in every row are left out."""
    texts = [[escape(cell) for cell in row] for row in rows]
    kept = [at for at in range(len(heads)) if any(row[at] for row in texts)]
    if not kept:
        return ""
    head = "".join(f'<th scope="col">{escape(heads[at])}</th>' for at in kept)
    body = "".join(f"<tr>{''.join(f'<td>{row[at]}</td>' for at in kept)}</tr>" for row in texts)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
