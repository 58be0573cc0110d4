# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # When does sparsity pay?
#
# Skipping zeros saves arithmetic and bytes; irregular access costs both. This notebook measures
# from which sparsity on the sparse product is faster than the dense one, puts the products on a
# roofline, and counts the bytes that a weight takes in each format. On a GPU the dense side is
# cuBLAS in fp32, TF32 and fp16; on a CPU it is torch in float32 and bfloat16.

# %%
import os
import tempfile
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import torch

os.environ["SPARSE_TRITON_CACHE_DIR"] = tempfile.mkdtemp()  # untuned: heuristics alone
import sparse_triton as st
from sparse_triton.commands.timing import interleaved_us
from sparse_triton.device import Device
from sparse_triton.executor import Call, prepare, problem_of
from sparse_triton.heuristics import default_config
from sparse_triton.kernels import FAMILIES
from sparse_triton.problem import SpmmProblem
from sparse_triton.roofline import peak_of

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
M, K = (1024, 1024) if GPU else (512, 512)
COLUMNS = (1, 64, 512, 4096) if GPU else (1, 16, 256)
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98) if GPU else (0.5, 0.7, 0.8, 0.9, 0.95)
STYLES = (("black", "o", "-"), ("0.35", "s", "--"), ("0.5", "^", "-."), ("0.65", "D", ":"))
name = Device.of(DEVICE).name
print(name)


def pruned(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The weight with its smallest entries set to zero."""
    kept = round((1 - sparsity) * weight.numel())
    threshold = weight.abs().flatten().kthvalue(weight.numel() - kept + 1).values
    return torch.where(weight.abs() >= threshold, weight, 0.0)


# %% [markdown]
# ## Crossover curves
#
# Each dense call as a user would write it, and the sparse families that the device has. All
# contestants of one point are measured interleaved.


# %%
def dense_calls(w: torch.Tensor, X: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """The library products, by precision; the fp32 one is the baseline."""
    half = torch.float16 if GPU else torch.bfloat16
    w16, X16 = w.to(half), X.to(half)

    def tf32() -> torch.Tensor:
        torch.set_float32_matmul_precision("high")
        y = torch.mm(w, X)
        torch.set_float32_matmul_precision("highest")
        return y

    calls = {"dense fp32": lambda: torch.mm(w, X)}
    if GPU:
        calls["dense TF32"] = tf32
    calls["dense fp16" if GPU else "dense bf16"] = lambda: torch.mm(w16, X16)
    return calls


def sparse_call(w: torch.Tensor, X: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The heuristic's sparse kernel; below break-even the family that comes next to dense."""
    matrix = st.SparseMatrix.from_dense(w)
    call = Call(X, None, None, None, False)
    config = default_config(problem_of(matrix, call), Device.of(DEVICE))
    if config.kernel == "dense":
        family = FAMILIES["gather" if GPU else "cpu"]
        config = family.default_config(problem_of(matrix, call), Device.of(DEVICE))
    launch = prepare(matrix, call, config)
    return lambda: launch(call, None)


weight = torch.randn(M, K, device=DEVICE)
times = {}
for N in COLUMNS:
    X = torch.randn(K, N, device=DEVICE)
    for sparsity in SPARSITIES:
        w = pruned(weight, sparsity)
        calls = dense_calls(w, X) | {"sparse": sparse_call(w, X)}
        us = interleaved_us(list(calls.values()), DEVICE)
        times[N, sparsity] = dict(zip(calls, us, strict=True))
    row = times[N, 0.9]
    print(f"N={N:5} at 90 %: " + ", ".join(f"{n} {t:.1f} µs" for n, t in row.items()))

# %%
figure, axes = plt.subplots(
    1, len(COLUMNS), figsize=(3.2 * len(COLUMNS), 3.2), sharey=True, layout="constrained"
)
for axis, N in zip(axes, COLUMNS, strict=True):
    for contestant, (colour, marker, line) in zip(times[N, 0.9], STYLES, strict=False):
        if contestant == "dense fp32":
            continue
        gains = [times[N, s]["dense fp32"] / times[N, s][contestant] for s in SPARSITIES]
        axis.plot(
            [100 * s for s in SPARSITIES], gains, color=colour, marker=marker, linestyle=line,
            label=contestant,
        )  # fmt: skip
    axis.axhline(1.0, color="black", linewidth=0.8)
    axis.set(title=f"N = {N}", xlabel="zeros in W (%)", yscale="log")
axes[0].set_ylabel("speed-up over dense fp32")
axes[-1].legend(fontsize=8)
figure.suptitle(f"W {M}×{K} on {name}", fontsize=10)
plt.show()


# %% [markdown]
# Where each sparse curve crosses 1 sparsity begins to pay against fp32; where it crosses another
# curve, against that precision.


# %%
def crossover(N: int, against: str) -> str:
    """The sparsity from which on the sparse product is faster, by interpolation of log(time)."""
    gains = np.log([times[N, s][against] / times[N, s]["sparse"] for s in SPARSITIES])
    if gains[0] >= 0:
        return f"below {SPARSITIES[0]:.0%}"
    if gains.max() < 0:
        return f"not up to {SPARSITIES[-1]:.0%}"
    i = int(np.argmax(gains >= 0))
    x = np.interp(0.0, gains[i - 1 : i + 1], SPARSITIES[i - 1 : i + 1])
    return f"{x:.0%}"


rivals = [n for n in times[COLUMNS[0], 0.9] if n != "sparse"]
print("sparse is faster from this sparsity on:")
print("     N  " + "".join(f"{r:>16}" for r in rivals))
for N in COLUMNS:
    print(f"{N:6}  " + "".join(f"{crossover(N, r):>16}" for r in rivals))

# %% [markdown]
# ## Roofline
#
# A product of W with N columns does `2·nnz·N` useful operations and moves at least the bytes of
# X, Y and the packed weight. Their ratio, the arithmetic intensity, says which of the two
# ceilings applies. The ceilings are estimates from the device's clock and bus (assumed figures on
# a CPU).

# %%
peak = peak_of(DEVICE)
print(peak)
figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
intensity = np.logspace(-2, 4, 100)
roof = np.minimum(intensity * peak.bytes_per_us, peak.flop_per_us) / 1e3
axis.plot(intensity, roof, color="black", label="roofline (estimate)")
for N, (colour, marker, _) in zip(COLUMNS, STYLES, strict=False):
    xs, ys = [], []
    for s in SPARSITIES:
        problem = SpmmProblem(M, K, N, round((1 - s) * M * K))
        xs.append(problem.flop / problem.min_bytes)
        ys.append(problem.flop / times[N, s]["sparse"] / 1e3)
    axis.scatter(xs, ys, color=colour, marker=marker, s=26, label=f"sparse, N = {N}")
axis.set(
    xscale="log", yscale="log", xlabel="useful flop per byte of least traffic",
    ylabel="useful GFLOP/s", title=f"{SPARSITIES[0]:.0%}–{SPARSITIES[-1]:.0%} zeros, {name}",
)  # fmt: skip
axis.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## Bytes of a weight
#
# At a few columns the weight itself is the traffic, and its format decides. Sizes are relative to
# the dense weight of the same dtype; `unrolled` stores 16 bytes of code per non-zero.


# %%
def bytes_of(itemsize: int, sparsity: np.ndarray) -> dict[str, np.ndarray]:
    """Bytes per element of W in each format."""
    density = 1 - sparsity
    formats = {
        "CSR, 32-bit columns": density * (itemsize + 4),
        "values + 16-bit columns": density * (itemsize + 2),
        "values + bitmap": density * itemsize + 1 / 8,
    }
    if itemsize == 4:
        formats["unrolled: code"] = density * 16
    else:
        bridged = density / (1 - (1 - density) ** 15)  # each gap over 15 costs a zero in between
        formats["values + 4-bit gaps"] = bridged * (itemsize + 0.5)
    return formats


zeros = np.linspace(0, 0.99, 100)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for axis, (dtype, itemsize) in zip(axes, (("float32", 4), ("float16", 2)), strict=True):
    for (label, size), (colour, _, line) in zip(
        bytes_of(itemsize, zeros).items(), STYLES, strict=True
    ):
        axis.plot(100 * zeros, size / itemsize, color=colour, linestyle=line, label=label)
    axis.axhline(1.0, color="black", linewidth=0.8)
    axis.set(title=f"{dtype} weight", xlabel="zeros in W (%)", ylim=(0, 2.2))
    axis.legend(fontsize=8)
axes[0].set_ylabel("bytes / bytes of the dense weight")
plt.show()
