"""Who is timed: one line each, name -> the module that makes it. A module is imported in its own process only."""

COMPETITORS = {
    "plain": "competitors.plain",
    "handwritten": "competitors.handwritten",
    "jax": "competitors.jax_loop",
    "jax tf32": "competitors.jax_loop",
    "ours fp32": "competitors.ours",
    "ours tf32": "competitors.ours",
    "ours bf16": "competitors.ours",
    "ours fp32 + drawing": "competitors.ours",
}
