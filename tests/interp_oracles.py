"""Planted answers for the measures: tables of exact cosines, and networks written by hand that give a known table."""

import numpy as np
import torch
from oracles import plain_answer

from interp_arith.interp.base import Subject
from interp_arith.interp.cyclic import cyclic_group
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import ArithmeticTransformer, build_model
from interp_arith.tasks import ModularArithmetic

CYCLIC_TASKS = {
    "odd": ModularArithmetic(p=13, train_fraction=0.4),
    "even": ModularArithmetic(p=12, train_fraction=0.4),
    "subtract": ModularArithmetic(p=9, operation="subtract", train_fraction=0.5, val_fraction=0.2),
    "multiply": ModularArithmetic(p=11, operation="multiply", train_fraction=0.5),
    "divide": ModularArithmetic(
        p=13, operation="divide", train_fraction=0.4, format="numbers-with-operation"
    ),
    "bare": ModularArithmetic(p=10, format="numbers-bare", train_fraction=0.5),
}
"""All four operations, n odd and even, and every format of number tokens."""


def cosine_table(n, amplitudes):
    """T[x, y, z] = Σ_k amplitude_k cos(2πk(x+y−z)/n), in float64, by numpy."""
    x, y, z = np.meshgrid(*[np.arange(n)] * 3, indexing="ij")
    return sum(a * np.cos(2 * np.pi * k * ((x + y - z) % n) / n) for k, a in amplitudes.items())


def by_number(task, table):
    """A table over group elements as one over numbers [a, b, c]; 0 where a number is no group element."""
    group = cyclic_group(task)
    numbers = np.zeros((task.p, task.p, task.p))
    numbers[np.ix_(group.numbers, group.second, group.numbers)] = table
    return numbers


def right_answers(task):
    """1 at [a, b, c] where c is the right answer by plain Python, else 0."""
    table = np.zeros((task.p, task.p, task.p))
    for a, b in task.all_questions():
        table[a, b, plain_answer(task.operation, int(a), int(b), task.p)] = 1
    return table


def two_number_model(task, first, second, bias, out):
    """A model by hand: neurons relu(first[a] + second[b] + bias), logits neurons @ out.

    One head copies a, the other b, as one-hot vectors; first and second are [p, neuron], out is [neuron, p].
    """
    p, (n_pos, d_vocab) = task.p, (task.n_ctx, len(task.vocabulary))
    place_a, place_b = 0, n_pos - 1 - (task.format != "numbers-bare")
    config = ModelConfig(d_model=4 * p + n_pos, n_heads=2, d_head=p, d_mlp=len(bias))
    model = build_model(config, task).eval()
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items() if "." in name}
    token, seen_a, seen_b, answer = (slice(i * p, (i + 1) * p) for i in range(4))
    one_hot = torch.eye(p)
    state["embed.W_E"][:p, token] = one_hot
    state["pos_embed.W_pos"][:, 4 * p :] = torch.eye(n_pos)
    for head, (place, seen) in enumerate(((place_a, seen_a), (place_b, seen_b))):
        state["blocks.0.attn.W_Q"][head, 4 * p + n_pos - 1, 0] = 1e3 * p
        state["blocks.0.attn.W_K"][head, 4 * p + place, 0] = 1.0
        state["blocks.0.attn.W_V"][head, token] = one_hot
        state["blocks.0.attn.W_O"][head, :, seen] = one_hot
    state["blocks.0.mlp.W_in"][seen_a] = torch.as_tensor(first, dtype=torch.float32)
    state["blocks.0.mlp.W_in"][seen_b] = torch.as_tensor(second, dtype=torch.float32)
    state["blocks.0.mlp.b_in"][:] = torch.as_tensor(bias, dtype=torch.float32)
    state["blocks.0.mlp.W_out"][:, answer] = torch.as_tensor(out, dtype=torch.float32)
    state["unembed.W_U"][answer] = one_hot
    assert d_vocab >= p
    model.load_state_dict({**model.state_dict(), **state})
    return model


def lookup_model(task, numbers) -> ArithmeticTransformer:
    """A model by hand that looks a table [a, b, c] up: one neuron for every pair."""
    pairs = np.array([(a, b) for a in range(task.p) for b in range(task.p)])
    first, second = (np.eye(task.p)[:, pairs[:, i]] for i in (0, 1))
    return two_number_model(
        task, first, second, -np.ones(len(pairs)), np.asarray(numbers).reshape(-1, task.p)
    )


def cosine_subject(task, amplitudes, keys=None) -> Subject:
    """A network that looks a table of exact cosines up."""
    n = cyclic_group(task).n
    return Subject(lookup_model(task, by_number(task, cosine_table(n, amplitudes))), task, keys)
