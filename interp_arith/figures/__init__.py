"""How it looks: tables and labelled arrays become plotly figures; computes nothing of its own."""

from interp_arith.figures.curves import seed_curves, training_curves, write_html

__all__ = ["seed_curves", "training_curves", "write_html"]
