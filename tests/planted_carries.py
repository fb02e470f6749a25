"""Adders written by hand, with the hook points of a model, whose carry passes through nodes that are known.

At the position that predicts column k, head 0 of block 0 puts out base_add and head 1 the carry into the column;
the MLP of block 1 copies the carry from that head, and the logits come from head 0 and from that MLP. No other
node matters. The carry is worked out from the operands ("ahead"), or, where the column below sums to 9, from the
digit that stands before ("reads").
"""

from types import SimpleNamespace

import torch
from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from interp_arith.models.config import ModelConfig
from interp_arith.tasks import Addition
from interp_arith.tasks.digits import add

UNITS_FIRST = Addition(n_digits=3)
UNITS_LAST = Addition(n_digits=3, answer_order="units-last")


class PlantedAdder(HookedRootModule):
    """An adder of padded sums of two numbers; see the module.

    Args:
        task: padded, operands with units last.
        route: "ahead" or "reads"; the latter needs answers with units first.
        echoes: the MLP of block 0 puts the carry out as well, and nothing reads it.
    """

    def __init__(self, task, route="ahead", echoes=False):
        super().__init__()
        self.task, self.route, self.echoes = task, route, echoes
        self.config = ModelConfig(n_layers=2, n_heads=2, d_model=20, d_head=10, d_mlp=4)
        self.cfg = SimpleNamespace(n_ctx=task.n_ctx)
        self.W_E = nn.Parameter(torch.zeros(1))
        self.embed = SimpleNamespace(W_E=self.W_E)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.setup()

    def forward(self, tokens):
        base, carry = self.columns(tokens)
        noise = (tokens.float() / 7)[..., None]
        n_pos = tokens.shape[1]
        for block in self.blocks:
            block.attn.hook_pattern(torch.ones(len(tokens), 2, n_pos, n_pos).tril() / n_pos)
        z = torch.stack([base, torch.cat([carry, noise.expand(*noise.shape[:2], 9)], dim=-1)], dim=2)
        z = self.blocks[0].attn.hook_z(z)
        echo = carry if self.echoes else noise
        self.blocks[0].hook_mlp_out(torch.cat([echo, noise.expand(*tokens.shape, 19)], dim=-1))
        self.blocks[1].attn.hook_z(noise[..., None].expand(*tokens.shape, 2, 10))
        copied = torch.cat([z[:, :, 1, :1], noise.expand(*tokens.shape, 19)], dim=-1)
        carry = self.blocks[1].hook_mlp_out(copied)[..., :1]
        digit = (1 - carry) * z[:, :, 0] + carry * z[:, :, 0].roll(1, dims=-1)
        return torch.cat([digit, torch.zeros(*tokens.shape, len(self.task.vocabulary) - 10)], dim=-1)

    def columns(self, tokens):
        """base_add as one of ten, and the carry in, where each column is predicted; zeros elsewhere."""
        n, first = self.task.n_digits, self.task.answer_positions[0]
        x, y = tokens[:, :n].flip(-1), tokens[:, n + 1 : 2 * n + 1].flip(-1)
        r = nn.functional.pad(x + y, (0, 1))
        carries = add(torch.stack([x, y], dim=1)).carries
        base, carry = torch.zeros(*tokens.shape, 10), torch.zeros(*tokens.shape, 1)
        for i in range(tokens.shape[1] - first):
            column = i if self.task.answer_order == "units-first" else n - i
            into = carries[:, column]
            if self.route == "reads" and column:
                below = r[:, column - 1]
                into = (below >= 10) | ((below == 9) & (tokens[:, first + i] == 0))
            base[:, first + i] = nn.functional.one_hot(r[:, column] % 10, 10).float()
            carry[:, first + i, 0] = into.float()
        return base, carry


class Block(nn.Module):
    """The two places where nodes put something out, and attention, which is even and moves nothing."""

    def __init__(self):
        super().__init__()
        self.attn = nn.Module()
        self.attn.hook_z = HookPoint()
        self.attn.hook_pattern = HookPoint()
        self.hook_mlp_out = HookPoint()


def predicts(task, column):
    """The position that predicts a column."""
    return task.answer_positions[0] + (
        column if task.answer_order == "units-first" else task.n_digits - column
    )
