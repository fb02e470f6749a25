"""Measures logged while a run trains: numbers of one seed's weights, by name; knows no loop."""

from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr
from torch import Tensor

from interp_arith import models
from interp_arith.errors import RequestError
from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.measures import MEASURES
from interp_arith.training.config import RunConfig

CHOICES = ("variant", "split", "removed", "layer")
"""Dims whose named choices make a number each; frequencies among them are left out."""

Live = Callable[[RunConfig, Mapping[str, Tensor]], dict[str, float]]


def live_measures(config: RunConfig) -> Live:
    """What takes `config.measure` of a seed's weights: the run's config, weights -> numbers by name.

    A name is the measure's, with its choices: "restricted_loss[sum, all]". Key frequencies are those of the weights
    at hand, for those of the last checkpoint are not known yet. What is not finite is left out.

    Raises:
        RequestError: a measure is unknown, does not apply, is dear, or is an array over more than named choices.
    """
    measures = MEASURES.chosen(config.measure, config.task, config.model)
    for each in measures:
        other = [dim for dim in each.dims if dim not in CHOICES]
        if each.cost == "dear" or other or each.units == "name":
            why = (
                f"it is an array over {', '.join(other)}" if other else f"it is {each.cost}, in {each.units}"
            )
            raise RequestError(
                f"measure {each.name} cannot be logged while training: {why}; "
                "take it afterwards, with `interp-arith measure`"
            )
    if not measures:
        return lambda config, weights: {}
    model = models.build_model(config.model, config.task).eval()

    def take(config: RunConfig, weights: Mapping[str, Tensor]) -> dict[str, float]:
        model.load_state_dict(weights)
        subject = Subject(model, config.task)
        return {name: value for each in measures for name, value in _numbers(each, each(subject)).items()}

    return take


def _numbers(measure: Measure, found: xr.DataArray) -> dict[str, float]:
    numbers = {}
    for index in np.ndindex(found.shape):
        labels = [str(found[dim].to_numpy()[i]) for dim, i in zip(found.dims, index, strict=True)]
        value = float(found.to_numpy()[index])
        if np.isfinite(value) and not any(label.isdigit() for label in labels):
            numbers[f"{measure.name}[{', '.join(labels)}]" if labels else measure.name] = value
    return numbers
