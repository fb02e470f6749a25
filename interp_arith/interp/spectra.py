"""What the weights say by themselves: spectra of the embedding and of the neuron-to-logit map, and their norms."""

from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.cyclic import group_of, no_number_tokens
from interp_arith.interp.forward import all_questions, device, no_list_of_questions
from interp_arith.interp.fourier import gini, spectrum
from interp_arith.interp.keys import over_frequencies
from interp_arith.interp.neurons import no_neurons
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.base import Task

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer


def no_element_tokens(task: Task, model: ModelConfig) -> str | None:
    """Why no token stands for each element that the task computes with."""
    if reason := no_list_of_questions(task, model):
        return reason
    if len(task.answer_positions) > 1:
        return "numbers are spelled in characters, so that no token is a number"
    return None


def no_neuron_logits(task: Task, model: ModelConfig) -> str | None:
    """Why no map leads from neurons to the logit of each element."""
    if model.attention_only:
        return "the model has attention alone, and no neurons"
    return no_element_tokens(task, model)


def element_embedding(subject: Subject) -> Float[Tensor, "element d_model"]:
    """The rows of W_E that stand for elements (numbers): "=" and the operation's sign left out."""
    return subject.model.embed.W_E.detach()[: all_questions(subject).n_elements]


def neuron_logit_map(subject: Subject) -> Float[Tensor, "neuron d_vocab_out"]:
    """W_out W_U of the last block: what each neuron adds to each logit.

    Behind a final norm its centring and weights are folded in; its scale, which every question has its own of,
    is left out, so that the map is then one up to that factor.
    """
    return neuron_logits(subject.model)


@torch.no_grad()
def neuron_logits(model: "ArithmeticTransformer") -> Float[Tensor, "neuron d_vocab_out"]:
    """See neuron_logit_map."""
    out, config = model.blocks[-1].mlp.W_out, model.config
    if config.normalization == "layer" and config.final_norm:
        out = out - out.mean(dim=-1, keepdim=True)
    if config.normalization != "none" and config.final_norm:
        out = out * model.trained_parameters()["ln_final.w"]
    return out @ model.unembed.W_U


def embedding_transform(subject: Subject) -> Float[Tensor, " freq"]:
    """The spectrum of W_E's number rows, in the order of the group."""
    numbers = torch.from_numpy(subject.get(group_of).numbers).to(device(subject))
    return spectrum(subject.get(element_embedding)[numbers])


def unembedding_transform(subject: Subject) -> Float[Tensor, " freq"]:
    """The spectrum of the neuron-to-logit map along its classes, in the order of the group."""
    numbers = torch.from_numpy(subject.get(group_of).numbers).to(device(subject))
    return spectrum(subject.get(neuron_logit_map).T[numbers])


def embedding_spectrum(subject: Subject) -> xr.DataArray:
    """Norm over d_model of the Fourier transform of W_E's number rows at each frequency, cosine and sine merged.

    √(‖Σ_x cos ω_k x W_E[x]‖² + ‖Σ_x sin ω_k x W_E[x]‖²), the waves of unit norm; x is the group element, so that for
    multiply and divide these are multiplicative characters, and the row of 0 is left out. ≥ 0, in units of W_E.
    """
    return over_frequencies(subject, subject.get(embedding_transform))


def unembedding_spectrum(subject: Subject) -> xr.DataArray:
    """Norm over the neurons of the Fourier transform of W_out W_U along the classes, cosine and sine merged; ≥ 0.

    The neurons are those of the last block. Behind a final norm, its centring and weights are folded into the map,
    and its scale, one number a question, is left out: the spectrum's shape stands, its height means nothing then.
    """
    return over_frequencies(subject, subject.get(unembedding_transform))


def gini_embedding(subject: Subject) -> xr.DataArray:
    """Gini coefficient of embedding_spectrum over the frequencies, in [0, 1 − 1/m]: the share of few in the whole."""
    return xr.DataArray(gini(subject.get(embedding_transform)).item())


def gini_unembedding(subject: Subject) -> xr.DataArray:
    """Gini coefficient of unembedding_spectrum over the frequencies, in [0, 1 − 1/m]."""
    return xr.DataArray(gini(subject.get(unembedding_transform)).item())


def embedding_singular_values(subject: Subject) -> xr.DataArray:
    """Singular values of W_E's number rows, the largest first."""
    return _singular_values(subject.get(element_embedding), "component")


def unembedding_singular_values(subject: Subject) -> xr.DataArray:
    """Singular values of the neuron-to-logit map W_out W_U of the last block, the largest first.

    Behind a final norm they are known up to one factor; see unembedding_spectrum.
    """
    return _singular_values(subject.get(neuron_logit_map), "component")


def _singular_values(matrix: Tensor, dim: str) -> xr.DataArray:
    size = min(matrix.shape)
    finite = bool(matrix.isfinite().all())  # LAPACK raises where a training has diverged
    values = torch.linalg.svdvals(matrix.double()).cpu().numpy() if finite else np.full(size, np.nan)
    return xr.DataArray(values, coords={dim: np.arange(len(values))})


def weight_norm(subject: Subject) -> xr.DataArray:
    """Σ w² over each trained parameter tensor, and over all of them ("total")."""
    norms = {
        name: tensor.detach().double().square().sum().item()
        for name, tensor in subject.model.trained_parameters().items()
    }
    norms["total"] = sum(norms.values())
    return xr.DataArray(list(norms.values()), coords={"parameter": list(norms)})


def always(task: Task, model: ModelConfig) -> str | None:
    """Nothing stands against it."""
    return None


_CONCENTRATION = "Nanda et al. 2023, section 5, after Hurley & Rickard 2009"
_VALUES = "after Nanda et al. 2023, section 4"
SPECTRUM_MEASURES = (
    Measure(embedding_spectrum, ("freq",), "1", "Nanda et al. 2023, section 4.1", no_number_tokens),
    Measure(unembedding_spectrum, ("freq",), "1", "Nanda et al. 2023, section 4.2", no_neurons),
    Measure(gini_embedding, (), "1", _CONCENTRATION, no_number_tokens, cost="cheap"),
    Measure(gini_unembedding, (), "1", _CONCENTRATION, no_neurons, cost="cheap"),
    Measure(embedding_singular_values, ("component",), "1", _VALUES, no_element_tokens),
    Measure(unembedding_singular_values, ("component",), "1", _VALUES, no_neuron_logits),
    Measure(weight_norm, ("parameter",), "1", "Nanda et al. 2023, section 5", always, cost="cheap"),
)
