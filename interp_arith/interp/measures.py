"""The table of measures: one line a measure; and all of them, or some, of one model."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import xarray as xr

from interp_arith.interp.ablation import ABLATION_MEASURES
from interp_arith.interp.attention import ATTENTION_MEASURES
from interp_arith.interp.base import Measures, Subject
from interp_arith.interp.carry_use import CARRY_USE_MEASURES
from interp_arith.interp.class_accuracy import CLASS_MEASURES
from interp_arith.interp.clock_pizza import CLOCK_PIZZA_MEASURES
from interp_arith.interp.digit_circuits import CIRCUIT_MEASURES
from interp_arith.interp.geometry import GEOMETRY_MEASURES
from interp_arith.interp.keys import KEY_MEASURES
from interp_arith.interp.learning_coefficient import LEARNING_COEFFICIENT_MEASURES
from interp_arith.interp.logit_lens import LOGIT_LENS_MEASURES
from interp_arith.interp.losses import LOSS_MEASURES
from interp_arith.interp.neurons import NEURON_MEASURES
from interp_arith.interp.patching import PATCHING_MEASURES
from interp_arith.interp.pictures import PICTURES
from interp_arith.interp.probes import PROBE_MEASURES
from interp_arith.interp.progress import PROGRESS_MEASURES
from interp_arith.interp.roles import ROLE_MEASURES
from interp_arith.interp.spectra import SPECTRUM_MEASURES
from interp_arith.tasks.base import Task

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

MEASURES = Measures(
    *LOSS_MEASURES,
    *SPECTRUM_MEASURES,
    *KEY_MEASURES,
    *NEURON_MEASURES,
    *PROGRESS_MEASURES,
    *CLOCK_PIZZA_MEASURES,
    *ATTENTION_MEASURES,
    *LEARNING_COEFFICIENT_MEASURES,
    *ROLE_MEASURES,
    *LOGIT_LENS_MEASURES,
    *PROBE_MEASURES,
    *GEOMETRY_MEASURES,
    *PICTURES,
    *CLASS_MEASURES,
    *PATCHING_MEASURES,
    *ABLATION_MEASURES,
    *CARRY_USE_MEASURES,
    *CIRCUIT_MEASURES,
)


def measure(
    model: "ArithmeticTransformer",
    task: Task,
    names: Iterable[str] | None = None,
    *,
    keys: Sequence[int] | None = None,
) -> xr.Dataset:
    """Measures of one model, one variable each.

    Args:
        model: to be measured.
        task: with its split.
        names: of MEASURES; all that apply and are not dear, unless given.
        keys: the key frequencies to use; this model's own unless given.

    Raises:
        RequestError: a name is unknown, or its measure does not apply.
    """
    chosen = MEASURES.chosen(names, task, model.config)
    subject = Subject(model, task, keys)
    return xr.Dataset({each.name: each(subject) for each in chosen})
