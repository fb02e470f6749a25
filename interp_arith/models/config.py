"""Which transformer: a ModelConfig."""

import math
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from interp_arith.errors import RequestError
from interp_arith.models.position_scheme import PositionScheme
from interp_arith.models.positions import POSITIONS, Learned
from interp_arith.registry import Choice
from interp_arith.tasks.base import Task


class ModelConfig(Choice):
    """Shape and parts of a decoder-only transformer; the defaults are those of Nanda et al. 2023."""

    n_layers: int = Field(default=1, ge=1)
    """Transformer blocks."""
    d_model: int = Field(default=128, ge=1)
    """Width of the residual stream."""
    n_heads: int = Field(default=4, ge=1)
    """Attention heads in each block."""
    d_head: int | None = Field(default=None, ge=1)
    """Width of one head; d_model / n_heads unless given."""
    d_mlp: int = Field(default=512, ge=1)
    """Neurons in each MLP layer."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """The MLP's nonlinearity."""
    gated: bool = False
    """A gated MLP: GEGLU with gelu, SwiGLU with silu."""
    mlp_depth: int = Field(default=2, ge=2)
    """Linear layers in each MLP."""
    attention_only: bool = False
    """No MLPs at all."""
    normalization: Literal["none", "layer", "rms"] = "none"
    """Norm before attention and MLP, each with trained weights."""
    final_norm: bool = True
    """A norm before the unembedding too (where there is a norm at all)."""
    norm_epsilon: float = Field(default=1e-5, gt=0)
    """Added to the variance."""
    positions: Annotated[SerializeAsAny[PositionScheme], BeforeValidator(POSITIONS.parse)] = Learned()
    """How the model knows where a token stands."""
    attention_coefficient: float = Field(default=1.0, ge=0, le=1)
    """α of an attention pattern α·softmax + (1 − α) (Zhong et al. 2023); 1 is plain attention, 0 attends evenly."""
    attention_scale: float = Field(default=1.0, gt=0)
    """Multiplies attention scores, q·k/√d_head."""
    attention_scale_from: int | None = Field(default=None, ge=2)
    """n₀: scores of a query that sees n > n₀ keys are also multiplied by ln n / ln n₀ (Chiang and Cholak 2022)."""
    attention_bias: bool = False
    """Trained biases of queries, keys, values and the output projection."""
    mlp_bias: bool = True
    """Trained biases in the MLP."""
    unembed_bias: bool = False
    """A trained bias on the logits."""
    tied: bool = False
    """One matrix embeds and unembeds: one parameter, one gradient."""
    n_ctx: int | None = Field(default=None, ge=1)
    """Positions; what the task needs unless given."""
    init_scale: float = Field(default=1.0, gt=0)
    """Weights start normal, of standard deviation init_scale / √d_model; biases start at 0, norm weights at 1."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.d_head is None and self.d_model % self.n_heads:
            nearest = self.d_model // self.n_heads * self.n_heads or self.n_heads
            raise RequestError(
                f"d_model = {self.d_model} is not divisible by n_heads = {self.n_heads}; "
                f"try d_model = {nearest}, or give d_head"
            )
        if problem := self.positions.objection(self.head_width):
            raise RequestError(problem)
        return self

    @property
    def head_width(self) -> int:
        """d_head, given or derived."""
        return self.d_head or self.d_model // self.n_heads

    @property
    def scales_attention(self) -> bool:
        """Whether scores are anything but q·k/√d_head."""
        return self.attention_scale != 1 or self.attention_scale_from is not None

    @property
    def init_std(self) -> float:
        """Standard deviation of the initial weights."""
        return self.init_scale / math.sqrt(self.d_model)

    def has_positions_for(self, task: Task, n_ctx: int) -> bool:
        """Whether a model of that context can read a task, which may be longer than its own.

        Only a trained table of positions ends with the context; where positions follow digits, it is rows for places
        that may run out.
        """
        places = self.positions.most_places
        has_places = places is None or max(task.number_lengths) <= places
        return has_places and (task.n_ctx <= n_ctx or not self.positions.ends_with_context)
