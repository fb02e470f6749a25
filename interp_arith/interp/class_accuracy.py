"""How many questions of each complexity class are answered right: cheap enough for every checkpoint."""

import xarray as xr

from interp_arith.interp.ablation import by_class, no_classes
from interp_arith.interp.base import Measure, Subject

QUESTIONS = 200
"""Of each class."""


def class_exact_match(subject: Subject) -> xr.DataArray:
    """Share of questions of each complexity class whose whole answer is right, decoded freely; from 0 to 1.

    200 questions of each class, drawn as such: among uniform questions the hard classes are rare. The protocol
    "complexity" asks more.
    """
    asked = by_class(subject.model, subject.task, n=QUESTIONS)
    return xr.DataArray(asked.exact_match(subject.model), coords={"complexity": list(asked.names)})


CLASS_MEASURES = (
    Measure(
        class_exact_match,
        dims=("complexity",),
        units="1",
        source="after Quirke et al. 2024, section 3",
        why_not=no_classes,
    ),
)
