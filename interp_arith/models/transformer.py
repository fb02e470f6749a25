"""The model: a real HookedTransformer, with the parts and calls that arithmetic needs."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformer_lens import ActivationCache, HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp_arith.errors import RequestError, unknown
from interp_arith.models.attention import MixedAttention, ScaledAttention
from interp_arith.models.config import ModelConfig
from interp_arith.models.hooked_parts import DeepMLP, TiedUnembed, hooked_config
from interp_arith.models.position_scheme import Ids
from interp_arith.tasks.base import Task

HookFunction = Callable[[nn.Module, Any, Any], Any]
AttentionMask = Int[Tensor, "batch pos"] | None
Logits = Float[Tensor, "batch pos d_vocab_out"]
Attention = Float[Tensor, "batch head query key"]


class ArithmeticTransformer(HookedTransformer):
    """A HookedTransformer of a ModelConfig. Whatever works on a HookedTransformer works on it.

    Parameters that the config switches off (biases) exist, as TransformerLens wants them, but are zero and not
    trained; `trained_parameters` leaves them out. Weights are unset until `initialize` or `load_state_dict`.

    Args:
        config: shape and parts.
        d_vocab: input tokens.
        d_vocab_out: output tokens.
        n_ctx: positions.
        task: what is learnt; needed where positions follow its digits.
    """

    def __init__(
        self, config: ModelConfig, d_vocab: int, d_vocab_out: int, n_ctx: int, task: Task | None = None
    ) -> None:
        if config.tied and d_vocab != d_vocab_out:
            raise RequestError(
                f"tied embeddings need as many output tokens as input tokens; given {d_vocab} and {d_vocab_out}; "
                "set model.tied to False, or choose a task in characters"
            )
        with warnings.catch_warnings():
            # TransformerLens announces that 4.0 drops HookedTransformer; this package requires 3.9.
            warnings.simplefilter("ignore", DeprecationWarning)
            super().__init__(hooked_config(config, d_vocab, d_vocab_out, n_ctx))
        self.config, self._task = config, task
        self._registered: dict[str, RemovableHandle] = {}
        if hasattr(self, "pos_embed"):
            self.pos_embed = config.positions.module(self.pos_embed, task, HookPoint)
        if config.normalization != "none" and not config.final_norm:
            self.ln_final = nn.Identity()
        if config.tied:
            self.unembed = TiedUnembed(self.cfg, self.embed)
        for layer, block in enumerate(self.blocks):
            scale = config.attention_scale, config.attention_scale_from
            if config.attention_coefficient != 1:
                block.attn = MixedAttention(self.cfg, layer, config.attention_coefficient, *scale)
            elif config.scales_attention:
                block.attn = ScaledAttention(self.cfg, layer, *scale)
            if config.attention_only:
                del block.hook_mlp_out  # TransformerLens makes it, and it would never fire
            elif config.mlp_depth > 2:
                block.mlp = DeepMLP(self.cfg, config.mlp_depth)
        for name, parameter in self.named_parameters():
            if _is_bias(name):
                parameter.requires_grad_(self._trains_bias(name))
        self.setup()

    def _trains_bias(self, name: str) -> bool:
        if ".attn." in name:
            return self.config.attention_bias
        if name.startswith("unembed."):
            return self.config.unembed_bias
        return self.config.mlp_bias or ".mlp." not in name  # the bias of a layer norm is always trained

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, for every one that training changes; a tied one is listed once."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def position_ids(self, tokens: Int[Tensor, "batch pos"]) -> Ids:
        """Which rows of the position tables each token reads; see PositionScheme.ids."""
        return self.config.positions.ids(self._task, tokens)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Draw the weights: normal of std `config.init_std`; biases 0; norm weights 1; then the positions' start."""
        for name, parameter in self.named_parameters():
            last = name.rsplit(".", 1)[-1]
            if _is_bias(name):
                parameter.zero_()
            elif last == "w":
                parameter.fill_(1.0)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * self.config.init_std)
        self.config.positions.start(dict(self.named_parameters()))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a TransformerLens state dict; with tied embeddings its W_U must be the transpose of its W_E.

        Raises:
            RequestError: W_U is no such transpose, or a bias that the config switches off is not zero.
        """
        state = dict(state_dict)
        if self.config.tied and "unembed.W_U" in state:
            unembed = state.pop("unembed.W_U")
            if "embed.W_E" in state and not torch.equal(unembed, state["embed.W_E"].T):
                raise RequestError("unembed.W_U is not the transpose of embed.W_E; set model.tied to False")
        trained = self.trained_parameters()
        for name, value in self.state_dict().items():
            if name not in trained:
                if _is_bias(name) and name in state and state[name].any():
                    raise RequestError(
                        f"{name} is not zero, and the model config switches it off; "
                        "set attention_bias, mlp_bias or unembed_bias to True"
                    )
                state.setdefault(name, value)
        return super().load_state_dict(state, strict=strict, assign=assign)

    @overload
    def forward_analysis(
        self,
        tokens: Int[Tensor, "batch pos"],
        attention_mask: AttentionMask = None,
        return_cache: Literal[False] = False,
    ) -> tuple[Logits, list[Attention]]: ...

    @overload
    def forward_analysis(
        self,
        tokens: Int[Tensor, "batch pos"],
        attention_mask: AttentionMask = None,
        *,
        return_cache: Literal[True],
    ) -> tuple[Logits, list[Attention], ActivationCache]: ...

    @torch.no_grad()
    def forward_analysis(
        self,
        tokens: Int[Tensor, "batch pos"],
        attention_mask: AttentionMask = None,
        return_cache: bool = False,
    ) -> Any:
        """Logits and attention of every layer, in eval mode and without gradients; training mode is restored.

        Args:
            tokens: token ids.
            attention_mask: 1 where a token counts, 0 where it is padding (on the left).
            return_cache: also return the ActivationCache of every hook point.

        Returns:
            logits, one attention tensor a layer, and the cache if it was asked for.

        >>> logits, attention = model.forward_analysis(task.tokens(["23+45="]))  # doctest: +SKIP
        """
        self._check_tokens(tokens, attention_mask)
        was_training = self.training
        self.eval()
        try:
            patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(self.cfg.n_layers)]
            keep = None if return_cache else patterns
            logits, cache = self.run_with_cache(tokens, attention_mask=attention_mask, names_filter=keep)
        finally:
            self.train(was_training)
        attention = [cache[name] for name in patterns]
        return (logits, attention, cache) if return_cache else (logits, attention)

    @overload
    def generate_next_token(
        self,
        tokens: Int[Tensor, "batch pos"],
        temperature: float = 1.0,
        top_k: int | None = None,
        attention_mask: AttentionMask = None,
        generator: torch.Generator | None = None,
        return_logits: Literal[True] = True,
    ) -> tuple[Int[Tensor, "batch 1"], Float[Tensor, "batch d_vocab_out"]]: ...

    @overload
    def generate_next_token(
        self,
        tokens: Int[Tensor, "batch pos"],
        temperature: float = 1.0,
        top_k: int | None = None,
        attention_mask: AttentionMask = None,
        generator: torch.Generator | None = None,
        *,
        return_logits: Literal[False],
    ) -> Int[Tensor, "batch 1"]: ...

    @torch.no_grad()
    def generate_next_token(
        self,
        tokens: Int[Tensor, "batch pos"],
        temperature: float = 1.0,
        top_k: int | None = None,
        attention_mask: AttentionMask = None,
        generator: torch.Generator | None = None,
        return_logits: bool = True,
    ) -> tuple[Int[Tensor, "batch 1"], Float[Tensor, "batch d_vocab_out"]] | Int[Tensor, "batch 1"]:
        """One more token for every row.

        Args:
            tokens: what stands so far, no longer than the context.
            temperature: divides the logits before drawing; 0 takes the largest.
            top_k: draw among the k largest logits only.
            attention_mask: 1 where a token counts, 0 where it is padding (on the left).
            generator: where the draw comes from; torch's own if None.
            return_logits: whether to return the logits too.

        Returns:
            the new token of every row and, unless return_logits is False, the logits before temperature.

        Raises:
            RequestError: temperature < 0, top_k < 1, or tokens that the model cannot read.
        """
        if not 0 <= temperature < float("inf"):
            raise RequestError(
                f"temperature = {temperature}; allowed: 0 (greedy) or more, 1 is the model's own"
            )
        if top_k is not None and top_k < 1:
            raise RequestError(f"top_k = {top_k}; allowed: 1 to {self.cfg.d_vocab_out}, or None for all")
        logits = self.forward_analysis(tokens, attention_mask)[0][:, -1]
        if temperature == 0:
            chosen = logits.argmax(dim=-1, keepdim=True)
        else:
            best, ids = logits.double().topk(min(top_k or logits.shape[-1], logits.shape[-1]), dim=-1)
            scaled = (best - best[:, :1]) / temperature  # the largest is 0, however small the temperature
            chosen = ids.gather(-1, torch.multinomial(scaled.softmax(dim=-1), 1, generator=generator))
        return (chosen, logits) if return_logits else chosen

    @torch.no_grad()
    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        tokens: Int[Tensor, "batch pos"],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        attention_mask: AttentionMask = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch longer_pos"]:
        """The tokens, and max_new_tokens more, one by one; greedy unless a temperature is given.

        See generate_next_token for the arguments.
        """
        for _ in range(max_new_tokens):
            new = self.generate_next_token(
                tokens, temperature, top_k, attention_mask, generator, return_logits=False
            )
            tokens = torch.cat([tokens, new], dim=1)
            if attention_mask is not None:
                attention_mask = torch.cat([attention_mask, torch.ones_like(new)], dim=1)
        return tokens

    def register_hook(self, name: str, module: nn.Module | str, hook_fn: HookFunction) -> RemovableHandle:
        """Watch or change what a module puts out, until clear_hooks or the handle's remove.

        Args:
            name: what to call the hook; each name once.
            module: a module of this model, or its dotted name ("blocks.0.attn.hook_z").
            hook_fn: called with (module, inputs, output); what it returns, if not None, replaces the output.

        Raises:
            RequestError: the name is taken, or there is no such module.
        """
        if name in self._registered and _is_attached(self._registered[name]):
            raise RequestError(
                f"hook {name!r} is registered already; choose another name, or clear_hooks() first"
            )
        modules = dict(self.named_modules())
        if isinstance(module, str):
            if module not in modules:
                raise unknown("module", module, filter(None, modules))
            module = modules[module]
        elif not any(module is own for own in modules.values()):
            raise RequestError(
                f"hook {name!r}: the module given is no part of this model; pass one of its modules"
            )
        self._registered[name] = module.register_forward_hook(hook_fn)
        return self._registered[name]

    def clear_hooks(self) -> None:
        """Remove every hook that register_hook added, and TransformerLens' own that are not permanent."""
        for handle in self._registered.values():
            handle.remove()
        self._registered.clear()
        self.reset_hooks()

    def _check_tokens(self, tokens: Int[Tensor, "batch pos"], attention_mask: AttentionMask) -> None:
        if tokens.ndim != 2 or tokens.is_floating_point() or not tokens.numel():
            raise RequestError(
                f"tokens: given shape {list(tokens.shape)} of {tokens.dtype}; allowed: integers [batch, pos], "
                "for example task.tokens(['23+45='])"
            )
        if tokens.shape[1] > self.cfg.n_ctx:
            raise RequestError(
                f"tokens: {tokens.shape[1]} positions are over the model's context of {self.cfg.n_ctx}; shorten them"
            )
        if int(tokens.min()) < 0 or int(tokens.max()) >= self.cfg.d_vocab:
            raise RequestError(
                f"tokens: ids from {int(tokens.min())} to {int(tokens.max())}; allowed: 0 to {self.cfg.d_vocab - 1}"
            )
        if attention_mask is not None and attention_mask.shape != tokens.shape:
            raise RequestError(
                f"attention_mask: shape {list(attention_mask.shape)} does not match tokens {list(tokens.shape)}"
            )


def _is_attached(handle: RemovableHandle) -> bool:
    return handle.id in (handle.hooks_dict_ref() or {})


def _is_bias(name: str) -> bool:
    last = name.rsplit(".", 1)[-1]
    return last == "b" or last.startswith("b_")


def build_model(config: ModelConfig, task: Task) -> ArithmeticTransformer:
    """An untrained model for a task, its weights drawn with seed 0; `load_state_dict` takes TransformerLens weights.

    Raises:
        RequestError: the model has fewer positions than the task needs, or follows digits that it does not have.
    """
    config.positions.check(task)
    n_ctx = config.n_ctx or task.n_ctx
    if n_ctx < task.n_ctx:
        raise RequestError(
            f"model.n_ctx = {n_ctx}, and the {task.kind} task needs {task.n_ctx} positions; raise it or leave it out"
            f"{task.fitting(n_ctx)}"
        )
    model = ArithmeticTransformer(config, len(task.vocabulary), task.d_vocab_out, n_ctx, task)
    model.initialize(torch.Generator().manual_seed(0))
    return model
