"""A plain loop over a HookedTransformer: what one writes from the TransformerLens tutorials."""

import torch
from torch import Tensor
from torch.nn import functional

from competitors.base import Setting, TorchCompetitor, ignoring_targets, single_seed
from interp_arith.models import build_model


class Plain(TorchCompetitor):
    """The hooked model, torch's cross-entropy in float64 and torch's AdamW, nothing chosen for speed."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        single_seed(setting, "a plain loop")
        config = setting.config
        self._model = build_model(config.model, config.task)
        self._model.load_state_dict(setting.weights()[0], strict=False)
        self._model.to(setting.device)
        self._optimizer = torch.optim.AdamW(
            self._model.trained_parameters().values(),
            lr=config.optimizer.learning_rate,
            betas=config.optimizer.betas,
            eps=config.optimizer.epsilon,
            weight_decay=config.optimizer.weight_decay,
        )
        self._batches = [(batch.tokens[0], ignoring_targets(batch)[0]) for batch in setting.batches()]
        self._positions = list(config.task.answer_positions)

    def step(self, index: int) -> Tensor:
        tokens, targets = self._batches[index % len(self._batches)]
        logits = self._model(tokens)[:, self._positions]
        loss = functional.cross_entropy(logits.flatten(0, 1).double(), targets.flatten())
        self._optimizer.zero_grad()
        loss.backward()
        if self.setting.config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self.setting.config.clip_norm)
        self._optimizer.step()
        return loss


def make(setting: Setting, name: str) -> Plain:
    """The competitor."""
    return Plain(setting)
