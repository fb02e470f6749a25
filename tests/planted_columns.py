"""Adders by hand: embeddings are one-hot, nothing else is computed, and a feature is planted at one node."""

import torch

from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition

TASK = Addition(n_digits=3, answer_order="units-last")
"""123+456=0579: positions 0 to 10, the answer predicted from 7 on."""
EQUALS = 7
TOKENS = 14
"""How many there are: 0-9, +, =, <pad>, <end>."""


def empty_model(task=TASK, more=0, **fields):
    """One-hot embeddings and room for more; no position, attention or neuron does anything."""
    config = ModelConfig(**{"d_model": TOKENS + more, "n_heads": 1, "d_mlp": 2, **fields})
    model = build_model(config, task).eval()
    with torch.no_grad():
        for parameter in model.trained_parameters().values():
            parameter.zero_()
        model.embed.W_E[:, :TOKENS] = torch.eye(TOKENS)
    return model


def plant(model, hook, pos, values):
    """Write values(tokens) [batch, width] into a node's last dimensions at one position."""
    seen = []
    model.register_hook("tokens", "embed", lambda module, inputs, out: seen.append(inputs[0]))

    def write(module, inputs, out):
        planted = values(seen[-1])
        out = out.clone()
        out[:, pos, -planted.shape[1] :] = planted
        return out

    model.register_hook("plant", hook, write)
    return model


def generates(column, n_digits=3):
    """Whether a column has r ≥ 10, of operands written units last."""

    def of(tokens):
        x, y = tokens[:, n_digits - 1 - column], tokens[:, 2 * n_digits - column]
        return (x + y >= 10)[:, None].float()

    return of


def tri_case(column, n_digits=3):
    """A column's case as one of three points that form no line."""

    def of(tokens):
        r = tokens[:, n_digits - 1 - column] + tokens[:, 2 * n_digits - column]
        return torch.stack([r >= 10, r == 9], dim=-1).float()

    return of


def pair(column, n_digits=3):
    """Which of the 100 pairs of digits a column has, one-hot."""

    def of(tokens):
        x, y = tokens[:, n_digits - 1 - column], tokens[:, 2 * n_digits - column]
        return torch.eye(100)[10 * x + y]

    return of
