"""HTML of escaped text: everything that comes from a run passes through `text`."""

import base64
import html
from collections.abc import Iterable, Sequence
from unicodedata import bidirectional, category

# line breaks and tabs stay; other control characters, halves of characters and what turns the
# direction of all the text that follows do not
KEPT = "\n\t"
LEFT_OUT = ("Cc", "Cs")
TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def text(value: object) -> str:
    r"""Return any value as HTML text, also fit for a quoted attribute.

    What a page should not hold, as control characters, becomes a question mark.

    >>> text("<script>alert('1')</script>")
    '&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;'
    >>> text("bell \x07") == text("half \ud800").replace("half", "bell") == "bell \ufffd"
    True
    """
    return html.escape("".join(c if _harmless(c) else "\ufffd" for c in str(value)))


def _harmless(character: str) -> bool:
    if character in KEPT:
        return True
    return category(character) not in LEFT_OUT and bidirectional(character) not in TURNING


def tag(name: str, content: object, kind: str = "") -> str:
    """Return an element that holds text, of a CSS class.

    >>> tag("li", "a < b", "quiet")
    '<li class="quiet">a &lt; b</li>'
    """
    attribute = f' class="{kind}"' if kind else ""
    return f"<{name}{attribute}>{text(content)}</{name}>"


def paragraph(content: object, kind: str = "") -> str:
    """Return a paragraph of text, of a CSS class; nothing for an empty one."""
    return tag("p", content, kind) if content else ""


def table(
    caption: str, head: Sequence[object], rows: Iterable[Sequence[object]], numbers: bool = True
) -> str:
    """Return a table whose first column names its rows; `numbers` aligns the others to the right.

    Cells are text, and escaped.
    """
    columns = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    lines = [
        f'<tr><th scope="row">{text(first)}</th>'
        + "".join(tag("td", cell) for cell in rest)
        + "</tr>"
        for first, *rest in rows
    ]
    kind = "numbers" if numbers else "words"
    return (
        f'<div class="wide" tabindex="0"><table class="{kind}">{tag("caption", caption)}'
        f"<thead><tr>{columns}</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, object]], kind: str = "short") -> str:
    """Return names and values, `kind` "short" or "long"; those without a value are left out."""
    rows = (
        f"<div>{tag('dt', name)}{tag('dd', value)}</div>"
        for name, value in pairs
        if value not in (None, "")
    )
    return f'<dl class="{kind}">' + "\n".join(rows) + "</dl>"


def listing(content: str) -> str:
    """Return text to copy, as it stands."""
    return f'<pre tabindex="0"><code>{text(content)}</code></pre>'


def section(title: str, *parts: str) -> str:
    """Return a section of HTML parts under its heading; nothing where all of them are empty."""
    content = "\n".join(part for part in parts if part)
    return f"<section>\n{tag('h2', title)}\n{content}\n</section>" if content else ""


def folded(title: str, content: str) -> str:
    """Return HTML that a click on its title unfolds."""
    return f"<details>{tag('summary', title)}\n{content}\n</details>"


def picture(png: bytes, alt: str, caption: str, shape: str) -> str:
    """Return a PNG as a figure, inside the page, with its caption; `shape` is its CSS class."""
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    source = base64.b64encode(png).decode()
    return (
        f'<figure class="{shape}">'
        f'<img src="data:image/png;base64,{source}" width="{width}" height="{height}" '
        f'alt="{text(alt)}">{tag("figcaption", caption)}</figure>'
    )
