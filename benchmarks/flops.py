"""The floating-point operations that one training step needs; knows no clock.

Counted are the matrix products of our forward pass (`interp_arith.models.lean`, or `single` and `stacked` where they
serve) and of its gradients, 2 for each multiply-add, and nothing else: no norms, softmax, look-ups, loss, optimizer.
What a competitor multiplies beyond that (other positions, embeddings of every question) is waste, and so lowers the
share of the matrix rate it reaches.
"""

from interp_arith.models.config import ModelConfig
from interp_arith.models.folded import is_foldable
from interp_arith.training.config import RunConfig

FORWARD_AND_BACKWARD = 3
"""A product has two gradients, one for each factor, and each costs as much as the product."""


def step_flops(config: RunConfig, batch: int, device: str) -> int:
    """Operations of one step of one seed.

    With batch B, positions T, answer positions A, tokens V, logits L, width d, heads × their width h, neurons m:

        first layer   2 d h V (A' + 2 T)                  queries, keys and values of every (token, position)
        later layers  2 d h B (A' + 2 T)                  queries, keys and values of every question
        every layer   4 h B A' T + 2 d h B A' + 4 d m B A'  attention, output, MLP
        once          2 d L B A                           logits

    A' is A in the last layer and T in the others. Where one layer is folded (`interp_arith.models.folded`):

        first layer   2 d h V (1 + 2 T)                   as above
        once          2 d (h m + h L + m L)               the folded matrices
        questions     2 B (h m + h L + m L)               neurons; logits, past the neurons and behind them

    and on a CPU, which looks up what a head makes of a token, with R = V (T - 1) + 1 pairs of token and position that
    occur, instead of the first and the last:

        first layer   2 d h (1 + 2 R)                     query of the token that asks, keys and values of the pairs
        table         2 V (T - 1) h (m + L)               what each token adds to neurons and logits
        questions     2 B m L                             logits behind the neurons

    Times three, for the gradients.

    Args:
        config: task and model.
        batch: questions a step.
        device: "cpu" or "cuda".
    """
    model, positions = config.model, config.task.n_ctx
    answers = config.task.answer_positions
    n_answers = answers[-1] - answers[0] + 1
    width, n_logits = model.n_heads * model.head_width, config.task.d_vocab_out
    if config.task.asking_token is not None and is_foldable(model, n_answers):
        n_tokens, past_heads = len(config.task.vocabulary), width * (model.d_mlp + n_logits)
        folded = past_heads + model.d_mlp * n_logits
        tables = model.d_model * width * n_tokens * (1 + 2 * positions)
        questions = batch * folded
        if device == "cpu":
            before = n_tokens * (positions - 1)
            tables = model.d_model * width * (1 + 2 * (before + 1))
            questions = before * past_heads + batch * model.d_mlp * n_logits
        return FORWARD_AND_BACKWARD * 2 * (tables + model.d_model * folded + questions)
    forward = 2 * model.d_model * n_logits * batch * n_answers
    for layer in range(model.n_layers):
        queries = n_answers if layer == model.n_layers - 1 else positions
        rows = len(config.task.vocabulary) if layer == 0 else batch
        forward += 2 * model.d_model * width * rows * (queries + 2 * positions)
        forward += 4 * width * batch * queries * positions
        forward += 2 * width * model.d_model * batch * queries
        forward += batch * queries * mlp_flops(model)
    return FORWARD_AND_BACKWARD * forward


def mlp_flops(model: ModelConfig) -> int:
    """Operations of one MLP on one position."""
    if model.attention_only:
        return 0
    matrices = 3 if model.gated else 2
    return 2 * model.d_mlp * (matrices * model.d_model + (model.mlp_depth - 2) * model.d_mlp)


def mlp_shape(config: RunConfig, batch: int) -> tuple[int, int, int]:
    """The product that leads into the neurons: rows, inner, columns."""
    answers = config.task.answer_positions
    return batch * (answers[-1] - answers[0] + 1), config.model.d_model, config.model.d_mlp
