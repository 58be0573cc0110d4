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
# # Quickstart: prune, multiply, ask why
#
# A pruned weight is a dense tensor with zeros in it. `sparse_triton` inspects it once and
# multiplies with what is left. This notebook prunes a weight, multiplies, checks the result
# against float64, and asks the library why it chose what it chose. It runs in seconds on a CPU
# and takes larger shapes where there is a GPU.

# %%
import os
import tempfile

import matplotlib.pyplot as plt
import torch

import sparse_triton as st

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
M, K, N = (2048, 2048, 1024) if DEVICE.type == "cuda" else (512, 1024, 256)
# What is tuned below goes to a folder of its own, not to yours.
os.environ["SPARSE_TRITON_CACHE_DIR"] = tempfile.mkdtemp()
torch.manual_seed(0)
print(f"sparse-triton {st.__version__}, torch {torch.__version__}, on {DEVICE}")

# %% [markdown]
# ## Prune
#
# Magnitude pruning keeps the largest weights. (For a whole model there is `st.prune_`, see
# notebook 05.)


# %%
def pruned(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The weight with its smallest entries set to zero."""
    kept = round((1 - sparsity) * weight.numel())
    threshold = weight.abs().flatten().kthvalue(weight.numel() - kept + 1).values
    return torch.where(weight.abs() >= threshold, weight, 0.0)


weight = torch.randn(M, K, device=DEVICE)
W = pruned(weight, 0.9)
X = torch.randn(K, N, device=DEVICE)
print(f"{(W == 0).float().mean():.1%} of {W.numel()} weights are zero")

# %% [markdown]
# ## Multiply
#
# The first call analyses the tensor (and compiles, where the kernel wants that); the tensor is
# remembered from then on. `linear` takes activations as `torch.nn.Linear` has them. Bias,
# residual and activation happen in the same kernel.

# %%
Y = st.spmm(W, X)
bias = torch.randn(M, device=DEVICE)
fused = st.spmm(W, X, bias=bias, activation="relu")
tokens = torch.randn(8, 16, K, device=DEVICE)
out = st.linear(tokens, W, bias)
print(Y.shape, fused.shape, out.shape)

# %% [markdown]
# ## Is it right?
#
# The truth is float64, and the allowed error is derived, not guessed: `worst_ratio` gives the
# largest error as a share of that bound. Anything up to 1 is correct rounding behaviour.

# %%
from sparse_triton.verify import worst_ratio

matrix = st.SparseMatrix.from_dense(W)
print(matrix)
print(f"largest error: {worst_ratio(Y, matrix, X, Gy=16):.2f} of the bound")

# %% [markdown]
# ## Why that kernel?
#
# Nothing was tuned, so the choice came from a heuristic. `explain` says so, gives the roofline
# estimate of every family, and says why each of the others was not taken.

# %%
print(st.explain(W, X))

# %% [markdown]
# ## Tune
#
# Tuning searches the kernel family and its parameters for this weight on this device, verifies
# every candidate, and keeps the winner on disk. The dense call is always a candidate, so what
# wins is never slower than dense beyond noise.

# %%
import autotune

found = autotune.tune(W, N, seconds=4.0, seed=0)
print(found)
print()
print(st.explain(W, X))

# %% [markdown]
# ## How much faster, and from which sparsity on?
#
# The same shape, pruned further and further. Times are of the call you would write, against the
# dense call you would write instead.

# %%
from sparse_triton.commands.timing import interleaved_us

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)


def times(sparsity: float) -> tuple[float, float]:
    """Microseconds of the dense and of the sparse product."""
    dense = pruned(weight, sparsity)
    sparse = st.SparseMatrix.from_dense(dense)
    sparse_call = lambda: st.spmm(sparse, X)  # noqa: E731
    sparse_call()  # analysis and compilation are done once
    dense_us, sparse_us = interleaved_us([lambda: torch.mm(dense, X), sparse_call], DEVICE)
    return dense_us, sparse_us


measured = [times(s) for s in SPARSITIES]
for s, (dense_us, sparse_us) in zip(SPARSITIES, measured, strict=True):
    print(f"{s:.0%} zeros: dense {dense_us:8.1f} µs, sparse {sparse_us:8.1f} µs")

# %%
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
speedups = [dense_us / sparse_us for dense_us, sparse_us in measured]
bars = axis.bar([f"{s:.0%}" for s in SPARSITIES], speedups, color="0.55", edgecolor="black")
axis.bar_label(bars, [f"{s:.1f}×" for s in speedups], fontsize=9)
axis.margins(y=0.12)
axis.axhline(1.0, color="black", linestyle="--", linewidth=1)
axis.set(
    xlabel="zeros in W",
    ylabel="time dense / time sparse",
    title=f"W {M}×{K}, {N} columns, float32, {DEVICE.type}",
)
plt.show()

# %% [markdown]
# Next: [how a pattern becomes a kernel](02_from_pattern_to_kernel.ipynb),
# [tuning](03_tuning.ipynb), [when sparsity pays](04_when_sparsity_pays.ipynb).
