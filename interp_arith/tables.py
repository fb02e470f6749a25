"""Tables on the screen: headings, cells, widths; knows no run."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

HEADINGS = {
    "steps_to_train_accuracy_1": "train acc.\n1 at",
    "steps_to_test_accuracy_0.95": "test acc.\n0.95 at",
    "steps_to_test_accuracy_0.99": "test acc.\n0.99 at",
    "steps_to_test_accuracy_0.999": "test acc.\n0.999 at",
    "train_exact_match": "train\nexact",
    "val_exact_match": "val\nexact",
    "test_exact_match": "test\nexact",
}
WIDEST_UNBROKEN = 24
"""A column with a longer cell is text, and wraps where the screen is narrow."""


def heading(name: str) -> str:
    """A column's name in words, the set that it is about on a line of its own."""
    words = name.replace("accuracy", "acc.").replace("_", " ")
    first, _, rest = words.partition(" ")
    is_score = first in ("train", "val", "test") and rest in ("loss", "acc.")
    return HEADINGS.get(name, f"{first}\n{rest}" if is_score else words)


def cell(value: Any) -> str:
    """A value in few characters: four digits of a number, and a dash for what there is not."""
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return "–"
    return f"{int(value):,}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.4g}"


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = ()) -> None:
    """Print rows under their headings, those of `numbers` to the right; never narrower than what they hold.

    On a screen, long texts wrap and the spread of a mean stands below it.
    """
    console = Console(markup=False, highlight=False)
    spread = "\n± " if console.is_terminal else " ± "
    texts = [[cell(value).replace(" ± ", spread) for value in row] for row in rows]
    to_the_right = set(numbers)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for index, name in enumerate(header):
        lines = [
            line for text in (heading(name), *(row[index] for row in texts)) for line in text.split("\n")
        ]
        widest = max(map(len, lines))
        table.add_column(
            heading(name),
            justify="right" if index in to_the_right else "left",
            min_width=widest if widest <= WIDEST_UNBROKEN else None,
            overflow="fold",
        )
    for row in texts:
        table.add_row(*row)
    needed = console.measure(table, options=console.options.update(max_width=1000))
    console.width = max(console.width, needed.minimum) if console.is_terminal else needed.maximum
    console.print(table)
