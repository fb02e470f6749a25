"""What may be done to activations while a model runs, as values that compose; knows no task.

Positions are absolute, so that an intervention stays where it is while an answer is written token by token.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.interp.forward import in_eval_mode
from interp_arith.models.config import ModelConfig

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer


@dataclass(frozen=True, order=True)
class Node:
    """What one head, or the MLP, of one block puts out at one position.

    Attributes:
        block: from 0.
        head: from 0; None is the MLP.
        position: in the token sequence, from 0.
    """

    block: int
    head: int | None
    position: int

    @property
    def part(self) -> str:
        """ "H0", "H1", … or "MLP"."""
        return "MLP" if self.head is None else f"H{self.head}"

    def __str__(self) -> str:
        return f"{self.block}.{self.part}@{self.position}"

    @property
    def site(self) -> "Site":
        """Where its activation passes: `hook_z` of the head, or `hook_mlp_out`."""
        if self.head is None:
            return Site(f"blocks.{self.block}.hook_mlp_out", self.position)
        return Site(f"blocks.{self.block}.attn.hook_z", self.position, self.head)


@dataclass(frozen=True)
class Site:
    """A place in the network: a hook by name, a position, and a head where the hook has heads."""

    hook: str
    position: int
    head: int | None = None

    def read(self, x: Float[Tensor, "batch pos *axes"]) -> Float[Tensor, "batch width"]:
        """The activation there."""
        at = x[:, self.position]
        return at if self.head is None else at[:, self.head]


class Intervention(Protocol):
    """Anything that says where it acts, what an activation becomes there, and what it is for some of the rows."""

    @property
    def site(self) -> Site:
        """Where it acts."""
        ...

    def changed(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        """What the activation becomes."""
        ...

    def rows(self, index: Int[Tensor, " rows"]) -> "Intervention":
        """The same for some of the questions."""
        ...


@dataclass(frozen=True)
class Put:
    """Other values in place of an activation: those of a source run (a patch), zeros or means (an ablation).

    Attributes:
        site: where.
        values: one a question, or one for all.
    """

    site: Site
    values: Float[Tensor, "batch width"] | Float[Tensor, " width"]

    def changed(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        """The values."""
        return self.values.expand_as(x)

    def rows(self, index: Int[Tensor, " rows"]) -> "Put":
        """The values of some of the questions."""
        return self if self.values.ndim == 1 else replace(self, values=self.values[index])


@dataclass(frozen=True)
class Exchange:
    """Other values along some directions alone: x + P(values − x), with P the projection on the directions.

    With the mean, or zeros, as values the directions are removed; see `remove`.

    Attributes:
        site: where, such as a residual hook.
        directions: that span the subspace, such as the weights of a probe; they need not be orthogonal.
        values: one a question, or one for all.
    """

    site: Site
    directions: Float[Tensor, "direction width"]
    values: Float[Tensor, "batch width"] | Float[Tensor, " width"]

    def changed(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        """x, but along the directions."""
        basis = torch.linalg.qr(self.directions.T).Q
        return x + (self.values - x) @ basis @ basis.T

    def rows(self, index: Int[Tensor, " rows"]) -> "Exchange":
        """The values of some of the questions."""
        return self if self.values.ndim == 1 else replace(self, values=self.values[index])


def remove(site: Site, directions: Float[Tensor, "direction width"]) -> Exchange:
    """Nothing along the directions."""
    return Exchange(site, directions, torch.zeros_like(directions[0]))


@dataclass(frozen=True)
class Activations:
    """What every node put out in one run.

    Attributes:
        heads: `hook_z`, before the output projection.
        mlps: `hook_mlp_out`; None where there are none.
    """

    heads: Float[Tensor, "block batch pos head d_head"]
    mlps: Float[Tensor, "block batch pos d_model"] | None

    def at(self, node: Node) -> Float[Tensor, "batch width"]:
        """Those of one node."""
        if node.head is None:
            assert self.mlps is not None
            return self.mlps[node.block, :, node.position]
        return self.heads[node.block, :, node.position, node.head]


def patch(node: Node, source: Activations) -> Put:
    """The node as it was in the source's run, question by question."""
    return Put(node.site, source.at(node))


def zero(node: Node, like: Activations) -> Put:
    """The node silent."""
    return Put(node.site, torch.zeros_like(like.at(node)[0]))


def mean(node: Node, over: Activations) -> Put:
    """The node at its mean over the questions of a run."""
    return Put(node.site, over.at(node).mean(dim=0))


def resample(node: Node, among: Activations, order: Int[Tensor, " batch"]) -> Put:
    """The node as it was for other questions of a run: row `order[i]` of it for question i."""
    return Put(node.site, among.at(node)[order])


def all_nodes(config: ModelConfig, positions: int) -> list[Node]:
    """Every node of a model that reads so many positions, by block, part and position."""
    parts = [*range(config.n_heads), *([] if config.attention_only else [None])]
    return [
        Node(block, part, at) for block in range(config.n_layers) for part in parts for at in range(positions)
    ]


def check_nodes(config: ModelConfig, positions: int, nodes: Sequence[Node]) -> None:
    """Refuse nodes that a model does not have.

    Raises:
        RequestError: with the first of them, and what there is.
    """
    for node in nodes:
        has_part = not config.attention_only if node.head is None else 0 <= node.head < config.n_heads
        if not (0 <= node.block < config.n_layers and has_part and 0 <= node.position < positions):
            parts = f"H0 to H{config.n_heads - 1}" + ("" if config.attention_only else " and MLP")
            raise RequestError(
                f"node {node} does not exist: blocks are 0 to {config.n_layers - 1}, their parts {parts}, and "
                f"positions 0 to {positions - 1}; all_nodes lists them"
            )


@contextmanager
def intervened(model: "ArithmeticTransformer", interventions: Sequence[Intervention]) -> Iterator[None]:
    """The model with interventions, in their order where they meet; afterwards, whatever happens, without.

    What stands on the model already acts first. Where a sequence does not reach a position, nothing is done there.
    """
    by_hook: dict[str, list[Intervention]] = {}
    for each in interventions:
        by_hook.setdefault(each.site.hook, []).append(each)
    if missing := [name for name in by_hook if name not in model.hook_dict]:
        raise RequestError(
            f"hook {missing[0]!r} does not exist; model.hook_dict lists the others, such as blocks.0.hook_resid_post"
        )
    hooks: list[Any] = [(name, _acting(several)) for name, several in by_hook.items()]
    with model.hooks(fwd_hooks=hooks):
        yield


def _acting(interventions: Sequence[Intervention]) -> Callable[[Tensor, Any], Tensor]:
    def act(x: Tensor, hook: Any) -> Tensor:
        x = x.clone()
        for each in interventions:
            site = each.site
            if site.position < x.shape[1]:
                changed = each.changed(site.read(x).clone())
                if site.head is None:
                    x[:, site.position] = changed
                else:
                    x[:, site.position, site.head] = changed
        return x

    return act


@torch.no_grad()
def recorded(model: "ArithmeticTransformer", tokens: Int[Tensor, "batch pos"]) -> Activations:
    """What every node puts out; hooks that stand on the model act."""
    config = model.config
    heads = [f"blocks.{block}.attn.hook_z" for block in range(config.n_layers)]
    mlps = (
        [] if config.attention_only else [f"blocks.{block}.hook_mlp_out" for block in range(config.n_layers)]
    )
    with in_eval_mode(model):
        _, cache = model.run_with_cache(tokens, names_filter=heads + mlps)
    return Activations(
        torch.stack([cache[name] for name in heads]),
        torch.stack([cache[name] for name in mlps]) if mlps else None,
    )


@torch.no_grad()
def greedy(
    model: "ArithmeticTransformer",
    prompts: Int[Tensor, "batch pos"],
    new: int,
    interventions: Sequence[Intervention] = (),
    guess: Int[Tensor, "batch new"] | None = None,
) -> Int[Tensor, "batch new"]:
    """The tokens that the model writes under interventions, each the likeliest after those before it.

    What `model.generate` writes within `intervened`, in fewer passes: a guess is read as a whole, and read again
    from where the model disagrees, until it does not. A question that is guessed right costs one pass.
    """
    known, device = prompts.shape[1], model.W_E.device
    start = torch.zeros(len(prompts), new, dtype=torch.int64) if guess is None else guess
    tokens = torch.cat([prompts.to(device), start.to(device)], dim=1)
    rows = torch.arange(len(tokens), device=device)
    while len(rows):
        with in_eval_mode(model), intervened(model, [each.rows(rows) for each in interventions]):
            said = model(tokens[rows, :-1])[:, known - 1 :].argmax(dim=-1)
        wrong = (said != tokens[rows, known:]).any(dim=-1)
        rows, said = rows[wrong], said[wrong]
        tokens[rows, known:] = said
    return tokens[:, known:]
