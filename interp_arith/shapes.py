"""Every axis name, once.

Shapes in signatures are written with these names (`Float[Tensor, "batch pos d_model"]`), and the
dimensions of every DataArray take theirs from here.
"""

AXES = {
    "batch": "questions handled together",
    "pos": "position in the token sequence",
    "query": "position that attends",
    "key": "position that is attended to",
    "answer": "answer positions: those whose logits predict an answer token",
    "operands": "numbers in one question",
    "d_vocab": "input tokens",
    "d_vocab_out": "output tokens, or classes",
    "d_model": "residual stream",
    "layer": "transformer block",
    "head": "attention head",
    "d_head": "width of one head",
    "neuron": "MLP hidden unit (d_mlp)",
    "seed": "member of an ensemble",
    "step": "training step: the number of updates made",
    "set": "set of questions: train, val, test",
    "freq": "frequency k of a character of the cyclic group",
    "digit": "digit column, 0 = units",
}
