"""A run in a notebook: what it is, how far it got, where it lies; reads no weights."""

from collections.abc import Mapping

from interp_arith.cards import card
from interp_arith.models.config import ModelConfig
from interp_arith.storage import Checkpoint
from interp_arith.training.config import RunConfig


def run_card(config: RunConfig, checkpoints: list[Checkpoint], name: str, status: str, address: str) -> str:
    """The card of a run, as HTML.

    Args:
        config: of the run.
        checkpoints: its trajectory, by step; its last one's losses and accuracies are shown.
        name: of the run.
        status: finished, running, …
        address: what load_run finds it by.
    """
    span = f", steps {checkpoints[0].step:,} to {checkpoints[-1].step:,}" if checkpoints else ""
    said = {
        "status": status,
        "checkpoints": f"{len(checkpoints)}{span}",
        "at the last": scores_in_words(checkpoints[-1].metrics) if checkpoints else "",
        "task": config.task.in_brief(),
        "for example": config.task.worked_example(),
        "model": shape_in_words(config.model),
        "optimizer": config.optimizer.in_brief(),
        "seed": str(config.seed),
        "found at": address,
    }
    return card(name, "run", said)


def scores_in_words(metrics: Mapping[str, float]) -> str:
    """Losses and accuracies in one line.

    >>> scores_in_words({"step": 4, "test_loss": 0.0125, "test_accuracy": 1.0})
    'test loss 0.0125 nats, test accuracy 1'
    """
    shown = {name: value for name, value in metrics.items() if name.endswith(("_loss", "_accuracy"))}
    units = {name: " nats" if name.endswith("loss") else "" for name in shown}
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}{units[name]}" for name, value in shown.items())


def shape_in_words(model: ModelConfig) -> str:
    """Blocks, heads, neurons and width in one line.

    >>> shape_in_words(ModelConfig())
    '1 × (4 heads, 512 neurons), width 128'
    """
    mlp = "no MLP" if model.attention_only else f"{model.d_mlp} neurons"
    return f"{model.n_layers} × ({model.n_heads} heads, {mlp}), width {model.d_model}"
