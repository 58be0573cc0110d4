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
# # Tuning
#
# How a weight is cut (`M_blocks` row blocks, `N_blocks` column tiles, `Gy` groups) and which
# kernel family runs it is found by measuring, once, before deployment. This notebook runs a live
# Optuna study, draws what it saw, and shows what may be carried over to other weights. Without a
# GPU it tunes family `cpu`, which has the same three knobs; with one, the GPU families.

# %%
# %matplotlib inline
import json
import os
import tempfile

import matplotlib.pyplot as plt
import torch

os.environ["SPARSE_TRITON_CACHE_DIR"] = tempfile.mkdtemp()  # a store of our own
import autotune
import sparse_triton as st
from autotune.budget import Budget
from autotune.space import SearchSpace
from sparse_triton.device import Device
from sparse_triton.problem import SpmmProblem
from sparse_triton.records import Trial

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
M, K, N = (1024, 1024, 1024) if GPU else (512, 512, 256)
BUDGET = (
    Budget("notebook", trials=150, seconds=60.0, sampler="tpe")
    if GPU
    else Budget("notebook", trials=60, seconds=8.0, sampler="tpe")
)


def drawn(seed: int, sparsity: float = 0.9) -> st.SparseMatrix:
    """A random weight with the given share of zeros."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(M, K, generator=generator) >= sparsity
    w = torch.where(kept, torch.randn(M, K, generator=generator), 0.0)
    return st.SparseMatrix.from_dense(w).to(DEVICE)


W = drawn(0)
print(W)

# %% [markdown]
# ## The space
#
# It is known before the study begins. A configuration that cannot work is refused by one rule,
# `why_not`, which says the law, the values and the remedy.

# %%
problem = SpmmProblem(M, K, N, W.nnz)
facts = Device.of(DEVICE)
space = SearchSpace.of(problem, facts)
for family, fields in space.families.items():
    print(f"{family}:")
    for field, values in fields.items():
        print(f"    {field:11} {', '.join(map(str, values))}")
print(f"{len(space)} configurations in all")

# %%
from sparse_triton.config import KernelConfig
from sparse_triton.plan import why_not

too_wide = KernelConfig("unrolled", M_blocks=1, N_blocks=8, Gy=1)
print(why_not(problem, too_wide, Device.virtual_cuda(90)))

# %% [markdown]
# ## A live study
#
# Each candidate is verified against float64 before it is timed; slow ones are stopped early. A
# line is printed whenever the best time improves.

# %%
best = float("inf")


def improved(trial: Trial) -> None:
    """Say when a trial beats all before it."""
    global best
    if trial.timing is not None and trial.timing.us < best:
        best = trial.timing.us
        print(f"{best:9.2f} µs  {trial.config}  ({trial.origin})")


result = autotune.tune(W, N, budget=BUDGET, seed=0, on_trial=improved)
print()
print(result)

# %% [markdown]
# Optuna steers the study, but the record is a plain JSON file with every trial in it: readable,
# and enough to go on after an interruption.

# %%
entry = result.entry
record = json.loads(entry.to_json())
print("keys of the file:", ", ".join(record))
print(json.dumps(record["best"], indent=1))

# %% [markdown]
# ## What the study saw

# %%
from autotune import plots
from autotune.importance import importances

plots.history(entry)

# %% [markdown]
# Heat maps of `M_blocks` × `N_blocks`, one for each `Gy`. A cell is the best time over all other
# fields; darker is slower, blank was not visited (the sampler goes where times are good).

# %%
kernel = result.config.kernel if result.config.kernel != "dense" else next(iter(space.families))
plots.heat_maps(entry, kernel)

# %% [markdown]
# Which field matters? fANOVA splits the variance of log(time) over the fields.

# %%
for family, shares in importances(entry).items():
    print(family, ", ".join(f"{name} {share:.2f}" for name, share in shares.items()))
plots.importance_bars(entry)

# %% [markdown]
# ## What transfers
#
# A network has many weights of equal shape and similar sparsity: siblings. Is a configuration
# that is good for one good for another? The same configurations, fastest to slowest of the study,
# timed on both weights, interleaved.

# %%
from autotune.bench import LiveBench
from autotune.lab import quiet

sibling = drawn(1)
timed = sorted(
    (t for t in entry.trials if t.timing and t.config.kernel != "dense"),
    key=lambda t: t.timing.us,
)
sample = [t.config for t in timed[:: max(1, len(timed) // 10)]]
with quiet(DEVICE):
    mine = [t.us for t in LiveBench(W, problem, DEVICE).compare(sample)]
    theirs_problem = SpmmProblem(M, K, N, sibling.nnz)
    theirs = [t.us for t in LiveBench(sibling, theirs_problem, DEVICE).compare(sample)]

figure, axis = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
axis.scatter(mine, theirs, color="black", s=24, label="a configuration")
low, high = min(mine + theirs), max(mine + theirs)
axis.plot([low, high], [low, high], color="0.5", linestyle="--", label="equal")
axis.set(
    xlabel="time on the tuned weight (µs)",
    ylabel="time on its sibling (µs)",
    title=f"{len(sample)} configurations on two weights",
)
axis.legend()
plt.show()

# %% [markdown]
# So a warm-up searches on one weight of each kind and tries only the leading configurations on
# the siblings. `autotune.warmup` does that for a whole model; here with three weights of one
# shape.

# %%
from autotune.table import warmup_text

weights = {"layer1": W, "layer2": sibling, "layer3": drawn(2)}
print(warmup_text(autotune.warmup(weights, (N,), budget=BUDGET, quiet=True)))

# %% [markdown]
# A call with another number of columns takes the configuration of the nearest N that was tuned,
# with the block sizes kept. Nothing is ever searched at run time.

# %%
print(st.explain(W, 2 * N).choice.why)
