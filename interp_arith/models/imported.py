"""Weights that others trained, in the names and shapes of our models; knows no run.

Two layouts are read. "transformer-lens" is the state dict of a HookedTransformer. "transposed" is that of early
grokking code (Nanda et al. 2023, and Zhong et al. 2023 after it): the same names, most matrices multiplied from the
left, the heads of W_O in one axis, no biases in attention, and biases in the MLP.
"""

import io
import pickle
import struct
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from einops import rearrange
from safetensors import SafetensorError
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import ArithmeticTransformer, build_model
from interp_arith.tasks.base import Task

Layout = Literal["auto", "transformer-lens", "transposed"]
Shapes = dict[str, tuple[int, ...]]

_TRANSPOSED = {
    "W_E": ("d_model token", "token d_model"),
    "W_Q": ("head d_head d_model", "head d_model d_head"),
    "W_K": ("head d_head d_model", "head d_model d_head"),
    "W_V": ("head d_head d_model", "head d_model d_head"),
    "W_O": ("d_model (head d_head)", "head d_head d_model"),
    "W_in": ("neuron d_model", "d_model neuron"),
    "W_out": ("d_model neuron", "neuron d_model"),
}
"""Axes of each matrix that stands otherwise there: there, and here."""
_BUFFERS = ("mask", "IGNORE", "rotary_sin", "rotary_cos")
"""What older state dicts hold besides parameters; a model makes its own."""
_MOST_COMPLAINTS = 5
_UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
)
"""What readers of damaged files raise."""


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a state dict that `torch.save` or safetensors wrote; code in it is never run.

    A dict that holds one state dict among other things is taken for that one.

    Raises:
        RequestError: no such file, more than tensors in it, or damaged.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise RequestError(f"{file}: no such file") from None
    except OSError as error:
        raise RequestError(f"{file} cannot be read ({error.strerror})") from None
    try:
        if data[8:9] == b"{":  # safetensors: eight bytes of length, then JSON
            return safetensors.torch.load(data)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # of a pickle that torch did not write, which fails anyway
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _UNREADABLE:
        raise RequestError(
            f"{file} is no file of tensors alone: it is damaged, or holds pickled code, none of which was run; "
            "save model.state_dict() with torch.save or safetensors"
        ) from None
    return _state_dict(found, str(file))


def _state_dict(found: Any, where: str) -> dict[str, Tensor]:
    """The state dict that was found, or the only one inside."""
    inside = [found, *found.values()] if isinstance(found, Mapping) else []
    states = [part for part in inside if _is_state_dict(part)]
    if len(states) != 1:
        what = f"keys {', '.join(map(str, list(found)[:5]))}" if inside else f"a {type(found).__name__}"
        raise RequestError(f"{where} holds {what}, and no state dict; give a mapping of names to tensors")
    return dict(states[0])


def _is_state_dict(part: Any) -> bool:
    return (
        isinstance(part, Mapping) and bool(part) and all(isinstance(value, Tensor) for value in part.values())
    )


def imported_model(
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    task: Task,
    layout: Layout = "auto",
    ignore: Sequence[str] = (),
    vocabulary: Sequence[str] | None = None,
) -> ArithmeticTransformer:
    """A model of somebody else's weights, in eval mode.

    An unembedding that has a column for every input token, where the task has fewer answers, loses those after the
    answers, with a warning: early grokking code has a logit for "=" too.

    Args:
        weights: a state dict.
        config: what they are weights of; attention is causal in every layer.
        task: what was learnt.
        layout: "auto" tells it by W_O, which has three axes in TransformerLens and two in the transposed layout.
        ignore: names of tensors to leave out.
        vocabulary: their tokens in the order of their ids, as the task writes them; those of the task unless given.

    Raises:
        RequestError: tensors are missing, unexpected, of another shape, or not finite; each is named. Or their
            vocabulary lacks a token of the task.
    """
    model, state = build_model(config, task), _state_dict(weights, "what was given")
    if absent := set(ignore) - set(state):
        raise RequestError(f"ignore: there is no {min(absent)} among these weights; leave it out")
    given = {
        name: tensor.detach().to("cpu", torch.float32)
        for name, tensor in state.items()
        if name.rsplit(".", 1)[-1] not in _BUFFERS and name not in ignore
    }
    if vocabulary is not None:
        given = _with_ids_of(task, given, vocabulary)
    given = _without_other_logits(given, len(task.vocabulary), task.d_vocab_out)
    layout = layout_of(given) if layout == "auto" else layout
    _check(given, model, layout)
    if layout == "transposed":
        if config.n_layers > 1:
            warnings.warn(
                "attention is causal here; weights that were trained without a causal mask give other numbers "
                "in more than one layer",
                stacklevel=2,
            )
        given = {name: _turned(name, tensor, config.n_heads) for name, tensor in given.items()}
    model.load_state_dict(given)
    return model.eval()


def layout_of(weights: Mapping[str, Tensor]) -> Layout:
    """The layout of a state dict, by the axes of W_O."""
    flat = any(tensor.ndim == 2 for name, tensor in weights.items() if name.endswith(".W_O"))
    return "transposed" if flat else "transformer-lens"


def _with_ids_of(task: Task, weights: dict[str, Tensor], vocabulary: Sequence[str]) -> dict[str, Tensor]:
    """The same weights with the token ids of the task; what their other tokens have is left out.

    Where they have no <pad>, or no <end> and the task writes none, it gets the vectors of "=", which answers nothing.
    """
    symbols, given = task.vocabulary.symbols, list(vocabulary)
    needless = {"<pad>"} | ({"<end>"} if task.end_token_id is None else set())
    if absent := [symbol for symbol in symbols if symbol not in {*given, *needless}]:
        raise RequestError(
            f"vocabulary: {' '.join(absent)} not among the {len(given)} given, {' '.join(given)}; the task "
            f"writes {' '.join(symbol for symbol in symbols if symbol not in needless)}"
        )
    ids = torch.tensor([given.index(symbol if symbol in given else "=") for symbol in symbols])
    axes = {"embed.W_E": int(layout_of(weights) == "transposed"), "unembed.W_U": 1, "unembed.b_U": 0}
    changed = {}
    for name in (name for name in axes if name in weights):
        tensor, axis = weights[name], axes[name]
        if tensor.ndim <= axis or tensor.shape[axis] != len(given):
            raise RequestError(
                f"vocabulary: {len(given)} tokens given, and {name} is {_said(tuple(tensor.shape))}"
            )
        wanted = ids if name == "embed.W_E" else ids[: task.d_vocab_out]
        changed[name] = tensor.index_select(axis, wanted)
    return weights | changed


def _without_other_logits(weights: dict[str, Tensor], d_vocab: int, d_vocab_out: int) -> dict[str, Tensor]:
    names = [
        name
        for name in ("unembed.W_U", "unembed.b_U")
        if name in weights and weights[name].shape[-1:] == (d_vocab,) and d_vocab > d_vocab_out
    ]
    if names:
        warnings.warn(
            f"{' and '.join(names)}: of {d_vocab} logits the last {d_vocab - d_vocab_out}, which answer nothing, "
            "are left out",
            stacklevel=3,
        )
    return weights | {name: weights[name][..., :d_vocab_out].contiguous() for name in names}


def _check(given: Mapping[str, Tensor], model: ArithmeticTransformer, layout: Layout) -> None:
    """Name what is missing, unexpected, of another shape (as it stands in the layout) or not finite."""
    allowed = {name: _shape_there(name, p.shape, layout) for name, p in model.named_parameters()}
    if model.config.tied:
        allowed["unembed.W_U"] = (model.cfg.d_model, model.cfg.d_vocab_out)
    here = {name: tuple(tensor.shape) for name, tensor in given.items()}
    complaints = [
        *(f"missing {n} {_said(allowed[n])}" for n in model.trained_parameters() if n not in here),
        *(f"unexpected {n} {_said(shape)}" for n, shape in here.items() if n not in allowed),
        *(
            f"{n} is {_said(shape)}, and the model wants {_said(allowed[n])}"
            for n, shape in here.items()
            if n in allowed and shape != allowed[n]
        ),
        *(f"{n} is not finite" for n, tensor in given.items() if not tensor.isfinite().all()),
    ]
    if complaints:
        more = len(complaints) - _MOST_COMPLAINTS
        said = "; ".join(complaints[:_MOST_COMPLAINTS]) + (f"; and {more} more" if more > 0 else "")
        raise RequestError(
            f"these weights ({layout} layout) do not fit the config: {said}; change its task or model, the layout, "
            "or ignore tensors that are no part of the model"
        )


def _said(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _shape_there(name: str, shape: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """The shape that a parameter of this model has in the layout."""
    axes = _TRANSPOSED.get(name.rsplit(".", 1)[-1])
    if layout != "transposed" or axes is None:
        return tuple(shape)
    there, here = axes
    return tuple(rearrange(torch.empty(tuple(shape), device="meta"), f"{here} -> {there}").shape)


def _turned(name: str, tensor: Tensor, n_heads: int) -> Tensor:
    """From the transposed layout, of the right shape there."""
    last = name.rsplit(".", 1)[-1]
    if last not in _TRANSPOSED:
        return tensor
    there, here = _TRANSPOSED[last]
    sizes = {"head": n_heads} if last == "W_O" else {}
    return rearrange(tensor, f"{there} -> {here}", **sizes).contiguous()
