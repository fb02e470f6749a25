"""The folded matrices side by side, against `fold` and numerical gradients."""

import pytest
import torch

from interp_arith.models.config import ModelConfig
from interp_arith.models.folded import fold, fold_side_by_side
from interp_arith.models.rounding import rounded, rounded_factors

CONFIG = ModelConfig(d_model=4, n_heads=2, d_head=3, d_mlp=5)
N_LOGITS, N_ZEROS = 7, 4  # 5 + 7 + 4 is a whole vector of 16
SHAPES = {
    "attn.W_O": (2, 3, 4),
    "mlp.W_in": (4, 5),
    "mlp.W_out": (5, 4),
    "attn.b_O": (4,),
    "mlp.b_in": (5,),
    "mlp.b_out": (4,),
}
CASES = [(True, False), (False, False), (True, True)]
NAMES = ["biases", "no biases", "tied"]


def planted(biases, tied, dtype=torch.float64):
    """Parameters of one layer and its unembedding, and what is embedded where it is asked."""
    generator = torch.Generator().manual_seed(0)
    shapes = {f"blocks.0.{name}": shape for name, shape in SHAPES.items() if biases or ".b_" not in name}
    shapes |= {"embed.W_E": (N_LOGITS, 4)} if tied else {"unembed.W_U": (4, N_LOGITS)}
    shapes |= {"unembed.b_U": (N_LOGITS,)} if biases and not tied else {}
    parameters = {
        name: torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
        for name, shape in shapes.items()
    }
    return parameters, torch.randn(4, generator=generator, dtype=dtype).requires_grad_()


def both_ways(config, parameters, asking):
    """Side by side; and `fold`'s, put side by side."""
    found = fold_side_by_side(config, parameters, asking, N_ZEROS)
    folded = fold(config, parameters, parameters["blocks.0.attn.W_O"], asking)
    zeros = asking.new_zeros(6, N_ZEROS)
    wanted_W = torch.cat([folded.W_fire, folded.W_direct, zeros], dim=1).unflatten(0, (2, 3))
    wanted_b = torch.cat([folded.b_fire, folded.b_direct, zeros[0]])
    return found, (wanted_W, wanted_b, folded.W_out)


@pytest.mark.parametrize(("biases", "tied"), CASES, ids=NAMES)
def test_matrices_and_gradients_are_those_of_fold(biases, tied):
    config = CONFIG.model_copy(update={"tied": tied})
    parameters, asking = planted(biases, tied)
    found, wanted = both_ways(config, parameters, asking)
    leaves = [*parameters.values(), asking]
    generator = torch.Generator().manual_seed(1)
    slopes = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    gradients = (torch.autograd.grad(parts, leaves, slopes) for parts in (found, wanted))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.norm() > 0


@pytest.mark.parametrize(("biases", "tied"), CASES, ids=NAMES)
def test_gradients_are_the_numerical_ones(biases, tied):
    config = CONFIG.model_copy(update={"tied": tied})
    parameters, asking = planted(biases, tied)

    def of(*leaves):
        values = dict(zip(parameters, leaves[:-1], strict=True))
        return tuple(fold_side_by_side(config, values, leaves[-1], N_ZEROS))

    assert torch.autograd.gradcheck(of, [*parameters.values(), asking])


def test_zeros_fill_a_whole_vector():
    parameters, asking = planted(biases=False, tied=False)
    for n_zeros, width in ((4, 16), (5, 32), (20, 32)):
        W, b, _ = fold_side_by_side(CONFIG, parameters, asking, n_zeros)
        assert (W.shape, b.shape) == ((2, 3, width), (width,))
        assert W[..., 12:].eq(0).all()
        assert b[12:].eq(0).all()


def test_factors_are_rounded_and_so_are_those_of_gradients():
    """Weights that were rounded before give the same; a slope halfway between 1 and 1 + 2⁻⁷ counts as 1."""
    parameters, asking = planted(biases=False, tied=False, dtype=torch.float32)
    before = {name: rounded(p.detach()).requires_grad_() for name, p in parameters.items()}
    exact = fold_side_by_side(CONFIG, parameters, asking, N_ZEROS)
    with rounded_factors():
        found = fold_side_by_side(CONFIG, parameters, asking, N_ZEROS)
    again = fold_side_by_side(CONFIG, before, rounded(asking.detach()), N_ZEROS)
    for ours, theirs, unrounded in zip(found, again, exact, strict=True):
        assert torch.equal(ours, theirs)
        assert not torch.equal(ours, unrounded)
    slope = torch.full_like(found.W_out, 1 + 2**-8)
    (of_W_U,) = torch.autograd.grad(found.W_out, parameters["unembed.W_U"], slope, retain_graph=True)
    rows = before["blocks.0.mlp.W_out"]
    torch.testing.assert_close(of_W_U, rows.T @ torch.ones_like(slope))
    slope = torch.full_like(found.W, 1 + 2**-8)
    (of_W_in,) = torch.autograd.grad(found.W, parameters["blocks.0.mlp.W_in"], slope)
    rows = before["blocks.0.attn.W_O"].flatten(0, 1)
    torch.testing.assert_close(of_W_in, rows.T @ torch.ones(6, CONFIG.d_mlp))
