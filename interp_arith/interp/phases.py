"""The phases of grokking as four marks on a trajectory; knows no model: curves over steps come in."""

import numpy as np
import xarray as xr
from jaxtyping import Float

from interp_arith.errors import RequestError

MARKS = ("memorized", "circuit_onset", "cleanup_onset", "grokked")
MEMORIZED_ACCURACY = 0.99
"""Train accuracy from which the training questions count as known by heart."""
GROKKED_LOSS = 1e-2
"""Test loss, in nats, below which the model has grokked."""
CONDITIONS = {
    "memorized": f"train accuracy ≥ {MEMORIZED_ACCURACY:g}",
    "circuit_onset": "restricted loss below half of that when memorized",
    "cleanup_onset": "test loss below half its maximum",
    "grokked": f"test loss < {GROKKED_LOSS:g}",
}
"""What each mark waits for, in short."""
SOURCE = "after Nanda et al. 2023, section 5.1"

Curve = Float[np.ndarray, " step"]


def phases(
    train_accuracy: xr.DataArray, test_loss: xr.DataArray, restricted_loss: xr.DataArray
) -> xr.DataArray:
    """When a model has memorized, begins to form its circuit, begins to clean up, and has grokked.

    - `memorized`: the first step with train accuracy ≥ 0.99.
    - `circuit_onset`: the first later step with a restricted loss below half of that at `memorized`.
    - `cleanup_onset`: the last step with a test loss of at least half its maximum since `memorized`; not reached
      where that is the trajectory's last step, for then the loss has not fallen yet.
    - `grokked`: the first step after that with a test loss < 1e-2 nats.

    Memorization lasts until the onset of the circuit, circuit formation from there to the onset of cleanup, cleanup
    from there until the model has grokked. Each mark is NaN where it is not reached, and so are all after `memorized`
    if that is. Steps at which one of the curves is NaN are left out.

    Args:
        train_accuracy: over `step`, in [0, 1].
        test_loss: over `step`, in nats.
        restricted_loss: over `step`, in nats, over all questions, with the same key frequencies at every step.

    Returns:
        the marks over a dim `mark`, in steps, and over whatever dims the curves have but `step`, such as `seed`.

    Raises:
        RequestError: a curve has no `step` dim, or they have no step in common.
    """
    curves = {
        "train_accuracy": train_accuracy,
        "test_loss": test_loss,
        "restricted_loss": restricted_loss,
    }
    for name, curve in curves.items():
        if "step" not in curve.dims or "step" not in curve.coords:
            raise RequestError(
                f"phases: {name} has dims {list(curve.dims)}; allowed: a curve over `step`, "
                "as run.measure gives it"
            )
    aligned = xr.align(*curves.values(), join="inner", exclude=_other_dims(curves))
    if not aligned[0].sizes["step"]:
        raise RequestError("phases: the three curves have no step in common; measure them at the same steps")
    ordered = [curve.sortby("step") for curve in aligned]
    found = xr.apply_ufunc(
        marks,
        ordered[0]["step"],
        *ordered,
        input_core_dims=[["step"]] * 4,
        output_core_dims=[["mark"]],
        vectorize=True,
        output_dtypes=[np.float64],
    )
    named = found.assign_coords(mark=list(MARKS)).transpose("mark", ...)
    return named.rename("phases").assign_attrs(units="steps", source=SOURCE)


def _other_dims(curves: dict[str, xr.DataArray]) -> frozenset:
    return frozenset(dim for curve in curves.values() for dim in curve.dims if dim != "step")


def marks(
    step: Curve, train_accuracy: Curve, test_loss: Curve, restricted_loss: Curve
) -> Float[np.ndarray, " mark"]:
    """The four marks of one trajectory, its steps ascending; NaN where one is not reached. See `phases`."""
    found = np.full(len(MARKS), np.nan)
    whole = np.isfinite(step + train_accuracy) & ~np.isnan(test_loss + restricted_loss)
    step, known = step[whole], train_accuracy[whole] >= MEMORIZED_ACCURACY
    if not known.any():
        return found
    memorized = int(known.argmax())
    found[0] = step[memorized]
    restricted, test = restricted_loss[whole], test_loss[whole]

    lower = restricted[memorized + 1 :] < restricted[memorized] / 2
    if lower.any():
        found[1] = step[memorized + 1 + int(lower.argmax())]

    since = test[memorized:]
    cleanup = memorized + int(np.flatnonzero(since >= since.max() / 2)[-1])
    if cleanup == len(step) - 1:
        return found
    found[2] = step[cleanup]
    low = test[cleanup + 1 :] < GROKKED_LOSS
    if low.any():
        found[3] = step[cleanup + 1 + int(low.argmax())]
    return found
