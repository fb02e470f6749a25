"""Parts of a model switched off, held, patched or sharpened for as long as one looks, and what that changes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional

from interp_arith.errors import RequestError, unknown
from interp_arith.interp.ablation import by_class
from interp_arith.interp.forward import Hook, in_eval_mode
from interp_arith.interp.interventions import greedy
from interp_arith.interp.nodes import passing
from interp_arith.interp.pairs import no_two_numbers
from interp_arith.tasks.base import Examples, Task
from interp_arith.tasks.sources import split_questions

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

Way = Literal["zero", "mean", "patch"]
WAYS: tuple[Way, ...] = ("zero", "mean", "patch")
QUESTIONS = 300
"""In all; where there are classes of questions, a fifth of them of each class."""
_BATCH = 1024


@dataclass(frozen=True)
class Switches:
    """What is done to a model.

    Attributes:
        heads: block and head, whose outputs are replaced at every position.
        mlps: blocks whose MLPs' outputs are.
        neurons: block and neuron, whose outputs are.
        scale: what attention scores are multiplied by.
        way: replaced by "zero", by the "mean" over test questions, or by what another question gives ("patch").
    """

    heads: tuple[tuple[int, int], ...] = ()
    mlps: tuple[int, ...] = ()
    neurons: tuple[tuple[int, int], ...] = ()
    scale: float = 1.0
    way: Way = "zero"

    @property
    def do_nothing(self) -> bool:
        """Whether the model is as it was."""
        return not (self.heads or self.mlps or self.neurons) and self.scale == 1

    @property
    def hooks(self) -> list[str]:
        """Where something is replaced."""
        heads = [f"blocks.{block}.attn.hook_z" for block, _ in self.heads]
        mlps = [f"blocks.{block}.hook_mlp_out" for block in self.mlps]
        return list(dict.fromkeys([*heads, *mlps, *(_neurons_of(block) for block, _ in self.neurons)]))


@contextmanager
def switched(
    model: "ArithmeticTransformer",
    switches: Switches,
    other: Int[Tensor, "batch pos"] | None = None,
) -> Iterator[None]:
    """The model with the switches; afterwards, whatever happens, without.

    Args:
        model: hooks that stand on it act first.
        switches: what is done.
        other: questions with their answers, of the length of what will be read: means are taken over them, and of the
            first of them is what is patched in.

    Raises:
        RequestError: there is no such head, block or neuron, or `other` is missing.
    """
    _check(model, switches)
    values = _values(model, switches, other)
    hooks: list[Any] = []
    for block in {block for block, _ in switches.heads}:
        name, heads = f"blocks.{block}.attn.hook_z", [h for b, h in switches.heads if b == block]
        hooks.append((name, _replacing(values[name], heads)))
    hooks += [
        (name, _replacing(values[name])) for name in (f"blocks.{b}.hook_mlp_out" for b in switches.mlps)
    ]
    for block in {block for block, _ in switches.neurons}:
        name, units = _neurons_of(block), [n for b, n in switches.neurons if b == block]
        hooks.append((name, _replacing(values[name], units)))
    if switches.scale != 1:
        scaled: list[Hook] = [
            (f"blocks.{block}.attn.hook_attn_scores", lambda x, hook: x * switches.scale)
            for block in range(model.config.n_layers)
        ]
        hooks += scaled
    with model.hooks(fwd_hooks=hooks):
        yield


def _neurons_of(block: int) -> str:
    return f"blocks.{block}.mlp.hook_post"


def _replacing(values: Tensor, units: Sequence[int] | None = None):
    """A hook function: some units, on the axis after the position, or all of them, get other values."""

    def act(x: Tensor, hook: Any) -> Tensor:
        new = values[: x.shape[1]].to(x).expand_as(x)
        if units is None:
            return new
        x = x.clone()
        x[:, :, units] = new[:, :, units]
        return x

    return act


def _values(
    model: "ArithmeticTransformer", switches: Switches, other: Int[Tensor, "batch pos"] | None
) -> dict[str, Tensor]:
    """What stands in for what is switched off, at every position."""
    if switches.way not in WAYS:
        raise unknown("way", switches.way, WAYS)
    if switches.way == "zero":
        return dict.fromkeys(switches.hooks, torch.zeros(model.cfg.n_ctx, 1, 1)) | {
            name: torch.zeros(model.cfg.n_ctx, 1) for name in switches.hooks if not name.endswith("hook_z")
        }
    if other is None:
        raise RequestError(f"way {switches.way!r} needs other questions to take values from")
    if switches.way == "patch":
        other = other[:1]
    parts = list(passing(model, other, switches.hooks, _BATCH))
    return {name: torch.cat([part[name] for part in parts]).mean(dim=0) for name in switches.hooks}


def _check(model: "ArithmeticTransformer", switches: Switches) -> None:
    config = model.config
    blocks = [*(b for b, _ in switches.heads), *switches.mlps, *(b for b, _ in switches.neurons)]
    if lost := [block for block in blocks if not 0 <= block < config.n_layers]:
        raise RequestError(f"block {lost[0]}; allowed: 0 to {config.n_layers - 1}")
    if lost := [head for _, head in switches.heads if not 0 <= head < config.n_heads]:
        raise RequestError(f"head {lost[0]}; allowed: 0 to {config.n_heads - 1}")
    if config.attention_only and (switches.mlps or switches.neurons):
        raise RequestError("this model has attention alone, and no MLP to switch off")
    if lost := [neuron for _, neuron in switches.neurons if not 0 <= neuron < config.d_mlp]:
        raise RequestError(f"neuron {lost[0]}; allowed: 0 to {config.d_mlp - 1}")
    if not switches.scale >= 0:
        raise RequestError(f"scale {switches.scale}; allowed: 0 or more, 1 leaves attention as it is")


def held_out_examples(task: Task, n: int = QUESTIONS) -> Examples:
    """Questions that were not trained on, with their answers; of a task without any, of training."""
    split = "test" if len(task.split("test")) else "train"
    there = task.split(split)
    return task.examples(there[:n] if len(there) else split_questions(task, "train", n))


def changed_scores(
    model: "ArithmeticTransformer", task: Task, switches: Switches, n: int = QUESTIONS
) -> pd.DataFrame:
    """How many questions are answered right without the switches and with them, by complexity class where there are.

    Args:
        model: to be compared with itself.
        task: whose test questions are asked; of sums and differences of two numbers, as many of every class.
        switches: by "zero" or "mean".
        n: questions in all.

    Returns:
        A row a class, or one for all: questions, untouched, changed (shares of whole answers right, the right tokens
        standing before each), and the mean loss of both in nats an answer token.

    Raises:
        RequestError: as in switched; or the way is "patch", which needs one question.
    """
    if switches.way == "patch":
        raise RequestError("way 'patch' is of one question; scores are of the ways zero and mean")
    groups = _groups(model, task, n)
    other = held_out_examples(task, n).tokens
    rows = []
    for name, (tokens, targets, mask) in groups.items():
        untouched = _scores(model, tokens, targets, mask)
        with switched(model, switches, other):
            changed = _scores(model, tokens, targets, mask)
        rows.append(
            {
                "questions of": name,
                "questions": len(tokens),
                "untouched": untouched[0],
                "changed": changed[0],
                "loss untouched": untouched[1],
                "loss changed": changed[1],
            }
        )
    return pd.DataFrame(rows)


_Group = tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch answer"], Bool[Tensor, "batch answer"]]


def _groups(model: "ArithmeticTransformer", task: Task, n: int) -> dict[str, _Group]:
    """Tokens, targets and mask, by class."""
    if no_two_numbers(task) is not None:
        examples = held_out_examples(task, n)
        return {"all": (examples.tokens, examples.targets, examples.mask)}
    asked = by_class(model, task, n=max(1, n // 5))
    tokens = torch.cat([asked.prompts, asked.answers[:, :-1]], dim=1).chunk(len(asked.names))
    answers = asked.answers.chunk(len(asked.names))
    return {
        name: (read, right, torch.ones_like(right, dtype=torch.bool))
        for name, read, right in zip(asked.names, tokens, answers, strict=True)
    }


@torch.no_grad()
def _scores(
    model: "ArithmeticTransformer",
    tokens: Int[Tensor, "batch pos"],
    targets: Int[Tensor, "batch answer"],
    mask: Bool[Tensor, "batch answer"],
) -> tuple[float, float]:
    """Share of answers that are right, and the mean loss of their tokens."""
    device = model.embed.W_E.device
    with in_eval_mode(model):
        logits = torch.cat([model(part.to(device)) for part in tokens.split(_BATCH)])
    said, targets, mask = logits[:, -targets.shape[1] :], targets.to(device), mask.to(device)
    right = ((said.argmax(dim=-1) == targets) | ~mask).all(dim=-1)
    loss = functional.cross_entropy(said.double().flatten(0, 1), targets.flatten(), reduction="none")
    return right.double().mean().item(), float(np.mean(loss[mask.flatten()].cpu().numpy()))


def failing_questions(model: "ArithmeticTransformer", task: Task, n: int = QUESTIONS) -> pd.DataFrame:
    """Questions that a model answers wrong, decoded freely, as many of every class asked as in changed_scores.

    Args:
        model: to be asked; hooks that stand on it act.
        task: of sums or differences of two numbers.
        n: of each class.

    Returns:
        A row a question: class, question, right, said.

    Raises:
        RequestError: the task is of another kind.
    """
    asked = by_class(model, task, n=n)
    written = greedy(model, asked.prompts, asked.answers.shape[1], guess=asked.answers)
    wrong = (written != asked.answers).any(dim=-1).nonzero()[:, 0].tolist()
    names = [name for name in asked.names for _ in range(len(asked.prompts) // len(asked.names))]
    said, right = (task.read_answer(rows[wrong].cpu()) for rows in (written, asked.answers))
    rows = [
        {"class": names[index], "question": question_of(task, asked.prompts[index]), "right": r, "said": s}
        for index, r, s in zip(wrong, right, said, strict=True)
    ]
    return pd.DataFrame(rows, columns=["class", "question", "right", "said"])


def question_of(task: Task, prompt: Int[Tensor, " pos"]) -> str:
    """A prompt's tokens as a question in human order."""
    places, symbols = task.places(prompt[None].cpu()), task.vocabulary.decode(prompt.tolist())
    numbers: dict[int, dict[int, str]] = {}
    sign = "+"
    for symbol, segment, place in zip(
        symbols, places.segment[0].tolist(), places.place[0].tolist(), strict=True
    ):
        if place >= 0:
            numbers.setdefault(segment, {})[place] = symbol
        elif symbol in "+-" and segment == 0:
            sign = symbol
    words = ["".join(of[p] for p in sorted(of, reverse=True)).lstrip("0") or "0" for of in numbers.values()]
    return f"{sign.join(words)}="
