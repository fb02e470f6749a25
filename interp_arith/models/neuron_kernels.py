"""The neurons of many models as GPU kernels, which write nothing of a single neuron to memory; knows no autograd.

    logits = read · W_direct + b_direct + act(read · W_fire + b_fire) · W_out

of a block of rows at a time, neurons by blocks as well, and its gradients, for which the neurons are computed again.
Matrices are bfloat16, sums float32. Importing this needs Triton.
"""
# pyright: basic

import triton
import triton.language as tl


@triton.jit
def fire(x, ACTIVATION: tl.constexpr):
    """What a neuron puts out."""
    if ACTIVATION == "relu":
        return tl.where(x < 0, 0.0, x)  # NaN stays
    if ACTIVATION == "gelu":
        return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))
    tl.static_assert(ACTIVATION == "silu")
    return x * tl.sigmoid(x)


@triton.jit
def slope_of(x, ACTIVATION: tl.constexpr):
    """The derivative of what a neuron puts out."""
    if ACTIVATION == "relu":
        return tl.where(x > 0, 1.0, 0.0)
    if ACTIVATION == "gelu":
        density = 0.3989422804014327 * tl.exp(-0.5 * x * x)
        return 0.5 * (1.0 + tl.math.erf(x * 0.7071067811865476)) + x * density
    tl.static_assert(ACTIVATION == "silu")
    gate = tl.sigmoid(x)
    return gate * (1.0 + x * (1.0 - gate))


@triton.jit
def logits_kernel(
    read,
    W_fire,
    b_fire,
    W_direct,
    b_direct,
    W_out,
    logits,
    n_rows,
    D_MLP: tl.constexpr,
    WIDTH: tl.constexpr,
    N_LOGITS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    NEURONS: tl.constexpr,
):
    """Grid: blocks of rows, seeds."""
    seed = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inner, columns = tl.arange(0, WIDTH), tl.arange(0, N_LOGITS)
    there = rows[:, None] < n_rows
    read += seed * n_rows * WIDTH
    logits += seed * n_rows * N_LOGITS
    W_fire += seed * WIDTH * D_MLP
    W_out += seed * D_MLP * N_LOGITS
    x = tl.load(read + rows[:, None] * WIDTH + inner[None, :], mask=there, other=0.0)
    direct = tl.load(W_direct + seed * WIDTH * N_LOGITS + inner[:, None] * N_LOGITS + columns[None, :])
    found = tl.dot(x, direct) + tl.load(b_direct + seed * N_LOGITS + columns)[None, :]
    for first in range(0, D_MLP, NEURONS):
        neurons = first + tl.arange(0, NEURONS)
        into = tl.load(W_fire + inner[:, None] * D_MLP + neurons[None, :])
        out = tl.load(W_out + neurons[:, None] * N_LOGITS + columns[None, :])
        entered = tl.dot(x, into) + tl.load(b_fire + seed * D_MLP + neurons)[None, :]
        found = tl.dot(fire(entered, ACTIVATION).to(out.dtype), out, found)
    tl.store(logits + rows[:, None] * N_LOGITS + columns[None, :], found, mask=there)


@triton.jit
def reads_kernel(
    read,
    slopes,
    W_fire,
    b_fire,
    W_direct,
    W_out,
    d_read,
    n_rows,
    D_MLP: tl.constexpr,
    WIDTH: tl.constexpr,
    N_LOGITS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    NEURONS: tl.constexpr,
):
    """The gradient of what the heads read, from that of the logits. Grid: blocks of rows, seeds."""
    seed = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inner, columns = tl.arange(0, WIDTH), tl.arange(0, N_LOGITS)
    there = rows[:, None] < n_rows
    read += seed * n_rows * WIDTH
    d_read += seed * n_rows * WIDTH
    slopes += seed * n_rows * N_LOGITS
    W_fire += seed * WIDTH * D_MLP
    W_out += seed * D_MLP * N_LOGITS
    x = tl.load(read + rows[:, None] * WIDTH + inner[None, :], mask=there, other=0.0)
    slope = tl.load(slopes + rows[:, None] * N_LOGITS + columns[None, :], mask=there, other=0.0)
    direct = tl.load(W_direct + seed * WIDTH * N_LOGITS + inner[:, None] * N_LOGITS + columns[None, :])
    found = tl.dot(slope, tl.trans(direct))
    for first in range(0, D_MLP, NEURONS):
        neurons = first + tl.arange(0, NEURONS)
        into = tl.load(W_fire + inner[:, None] * D_MLP + neurons[None, :])
        out = tl.load(W_out + neurons[:, None] * N_LOGITS + columns[None, :])
        entered = tl.dot(x, into) + tl.load(b_fire + seed * D_MLP + neurons)[None, :]
        moved = tl.dot(slope, tl.trans(out)) * slope_of(entered, ACTIVATION)
        found = tl.dot(moved.to(into.dtype), tl.trans(into), found)
    tl.store(d_read + rows[:, None] * WIDTH + inner[None, :], found.to(x.dtype), mask=there)


@triton.jit
def weights_kernel(
    read,
    slopes,
    W_fire,
    b_fire,
    W_out,
    d_fire,
    d_bias,
    d_out,
    n_rows,
    n_seeds,
    D_MLP: tl.constexpr,
    WIDTH: tl.constexpr,
    N_LOGITS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    NEURONS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Gradients of W_fire (transposed), b_fire and W_out, a sum for each part of the rows.

    Grid: blocks of neurons, seeds, parts. A part is every PARTS-th block of rows. Everything is computed transposed,
    so that what enters the products of the sums is where the products before left it.
    """
    seed, part = tl.program_id(1).to(tl.int64), tl.program_id(2)
    neurons = tl.program_id(0) * NEURONS + tl.arange(0, NEURONS)
    inner, columns = tl.arange(0, WIDTH), tl.arange(0, N_LOGITS)
    read += seed * n_rows * WIDTH
    slopes += seed * n_rows * N_LOGITS
    into = tl.load(W_fire + seed * WIDTH * D_MLP + inner[None, :] * D_MLP + neurons[:, None])
    out = tl.load(W_out + seed * D_MLP * N_LOGITS + neurons[:, None] * N_LOGITS + columns[None, :])
    bias = tl.load(b_fire + seed * D_MLP + neurons)
    sum_into = tl.zeros((NEURONS, WIDTH), tl.float32)
    sum_out = tl.zeros((NEURONS, N_LOGITS), tl.float32)
    sum_bias = tl.zeros((NEURONS,), tl.float32)
    for first in range(part * ROWS, n_rows, PARTS * ROWS):
        rows = first + tl.arange(0, ROWS)
        there = rows[:, None] < n_rows
        x = tl.load(read + rows[:, None] * WIDTH + inner[None, :], mask=there, other=0.0)
        slope = tl.load(slopes + rows[:, None] * N_LOGITS + columns[None, :], mask=there, other=0.0)
        entered = tl.dot(into, tl.trans(x)) + bias[:, None]
        moved = tl.dot(out, tl.trans(slope)) * slope_of(entered, ACTIVATION)
        sum_bias += tl.sum(moved, axis=1)
        sum_into = tl.dot(moved.to(x.dtype), x, sum_into)
        sum_out = tl.dot(fire(entered, ACTIVATION).to(slope.dtype), slope, sum_out)
    place = part * n_seeds + seed
    tl.store(d_fire + place * D_MLP * WIDTH + neurons[:, None] * WIDTH + inner[None, :], sum_into)
    tl.store(d_out + place * D_MLP * N_LOGITS + neurons[:, None] * N_LOGITS + columns[None, :], sum_out)
    tl.store(d_bias + place * D_MLP + neurons, sum_bias)
