"""What an object says of itself in a notebook: a small table in HTML, escaped; knows no object.

No colour is named: text, lines and background are those of the page, so a card reads well in dark and in light.
"""

from collections.abc import Mapping
from html import escape

_TABLE = "border-collapse:collapse;margin:.3em 0 0;font-size:inherit"
_CELL = "text-align:left;vertical-align:top;font-weight:normal"
_NAME = f"{_CELL};padding:.1em 1.2em .1em 0;opacity:.7;white-space:nowrap"
_VALUE = f"{_CELL};padding:.1em 0;overflow-wrap:anywhere"
_CARD = "border-left:3px solid currentColor;padding:.2em .8em;max-width:60em;line-height:1.4"


def card(
    title: str, kind: str, rows: Mapping[str, str], folded: tuple[str, Mapping[str, str]] = ("", {})
) -> str:
    """A heading, and a line for each thing to say.

    Args:
        title: what the object is called.
        kind: what it is.
        rows: name -> what to say; lines that say nothing are left out.
        folded: a heading and more such lines, shown on a click.
    """
    heading, more = folded
    hidden = (
        f"<details><summary style='opacity:.7'>{escape(heading)}</summary>{_table(more)}</details>"
        if any(more.values())
        else ""
    )
    return (
        f"<div style='{_CARD}'><strong>{escape(title)}</strong> "
        f"<span style='opacity:.7'>{escape(kind)}</span>{_table(rows)}{hidden}</div>"
    )


def _table(rows: Mapping[str, str]) -> str:
    lines = [
        f"<tr style='background:none'><th style='{_NAME}'>{escape(name)}</th>"
        f"<td style='{_VALUE}'>{escape(value)}</td></tr>"
        for name, value in rows.items()
        if value
    ]
    return f"<table style='{_TABLE}'>{''.join(lines)}</table>" if lines else ""
