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
# # How a pattern becomes a kernel
#
# The weight is known long before the input. Family `unrolled` therefore turns it into a
# *program*: one instruction per non-zero, one load per used column, no index and no weight ever
# read. This notebook follows one small matrix through all steps:
#
# ```
# weight → pattern → row blocks → Gy groups → ops → PTX → machine code
# ```
#
# Compiling for an H100 (sm_90) needs no GPU, only Linux, so all of this is real output.

# %%
import itertools
import re

import matplotlib.pyplot as plt
import numpy as np
import torch

import sparse_triton as st
from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.partition import block_entries, group_entries, partition_rows
from sparse_triton.plan import plan_spmm
from sparse_triton.problem import SpmmProblem

H100 = Device.virtual_cuda(90)
M, K, N = 24, 48, 256
SHADES = ("0.1", "0.45", "0.75", "0.9")
MARKERS = ("s", "o", "^", "D")

# %% [markdown]
# ## The pattern
#
# A few rows are longer than the others, as in a real pruned layer. Only the positions of the
# non-zeros matter for the shape of the program; their values end up inside it.

# %%
generator = torch.Generator().manual_seed(0)
density = torch.full((M, 1), 0.10)
density[::7] = 0.35
kept = torch.rand(M, K, generator=generator) < density
W = st.SparseMatrix.from_dense(torch.where(kept, torch.randn(M, K, generator=generator), 0.0))
csr = W.csr
print(W)

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 3.4), width_ratios=(3, 1), sharey=True, layout="constrained"
)
left.scatter(csr.column_indices, csr.rows, marker="s", s=12, color="black")
left.set(xlabel="column k of W (row of X)", ylabel="row m of W", xlim=(-1, K), ylim=(M, -1))
left.set_title(f"pattern: {W.nnz} non-zeros, {W.sparsity:.0%} zeros", fontsize=10)
right.barh(range(M), csr.row_lengths, color="0.6", edgecolor="black", linewidth=0.5)
right.set_xlabel("non-zeros of the row")
plt.show()

# %% [markdown]
# ## Row blocks
#
# A program (Triton's word for a CTA) owns one *row block*. `even_rows` cuts the rows as they
# come, `even_nnz` deals them so that the blocks weigh the same, `sorted` puts rows of similar
# length together. Below, each row has the shade of its block.

# %%
BLOCK_M = 8
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True, layout="constrained")
for axis, how in zip(axes, ("even_rows", "even_nnz", "sorted"), strict=True):
    partition = partition_rows(csr, BLOCK_M, how)
    weights = []
    for b, rows in enumerate(partition.rows):
        mine = np.isin(csr.rows, rows)
        weights.append(int(mine.sum()))
        axis.scatter(
            csr.column_indices[mine], csr.rows[mine], marker=MARKERS[b], s=14, color=SHADES[b],
            edgecolor="black", linewidth=0.4, label=f"block {b}: {weights[-1]} nnz",
        )  # fmt: skip
    axis.set(xlabel="column k", xlim=(-1, K), ylim=(M, -1))
    axis.set_title(f"{how}: heaviest {max(weights) / np.mean(weights):.2f} × mean", fontsize=10)
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
axes[0].set_ylabel("row m")
plt.show()

# %% [markdown]
# ## Gy groups
#
# Inside one row block, `Gy` thread groups share the columns: each takes a run of whole columns,
# cut so that all have about the same number of non-zeros. Every group keeps its own sums; at the
# end the `Gy` partial sums are added, in a fixed order, through shared memory.

# %%
GY = 4
block = partition_rows(csr, BLOCK_M, "even_nnz").rows[0]
entries = block_entries(csr, block)
figure, axis = plt.subplots(figsize=(9, 2.6), layout="constrained")
for g, group in enumerate(group_entries(entries, GY)):
    axis.scatter(
        group.columns, group.places, marker=MARKERS[g], s=28, color=SHADES[g], edgecolor="black",
        linewidth=0.5, label=f"group {g}: {len(group)} nnz, columns {group.columns[0]}"
        f"–{group.columns[-1]}",
    )  # fmt: skip
axis.set(xlabel="column k", ylabel="place in block", xlim=(-1, K), ylim=(BLOCK_M, -1))
axis.set_title("row block 0, even_nnz, Gy = 4", fontsize=10)
axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
plt.show()

# %% [markdown]
# ## Ops: what the program does
#
# `schedule` decides which instructions, in which order: loads of rows of X run `prefetch` columns
# ahead of the multiplications that use them. The ops are few (`Load`, `Fma`, and three that
# arrange them), and `interpreter.py` says in NumPy what they mean.

# %%
from sparse_triton.kernels.unrolled.interpreter import interpret
from sparse_triton.kernels.unrolled.ops import Fma, Load
from sparse_triton.kernels.unrolled.schedule import unrolled_program

problem = SpmmProblem(M, K, N, W.nnz)
config = KernelConfig("unrolled", M_blocks=3, N_blocks=4, Gy=GY, row_blocks="even_nnz", prefetch=4)
plan = plan_spmm(problem, config, csr, H100)
program = unrolled_program(plan)
print(f"{len(program.bodies)} bodies = {len(program.rows)} row blocks × {program.parts} groups")
for op in program.bodies[0][:14]:
    print("  ", op)

# %% [markdown]
# The interpreter runs the whole program on the host. It must agree with the product in float64 up
# to the bound that `numerics` derives.

# %%
from sparse_triton.verify import worst_ratio

X = torch.randn(K, N, generator=generator)
Y = torch.from_numpy(interpret(program, X.numpy()))
print(f"largest error: {worst_ratio(Y, W, X, Gy=GY):.2f} of the bound")

# %% [markdown]
# ## The emitted program and its machine code, side by side
#
# `ptx` spells the ops; one hand-written Triton kernel carries the text; NVIDIA's assembler makes
# machine code of it. Each `fma` of the left column becomes one `FFMA` with the weight as an
# immediate, each load one `LDG` with an immediate offset.

# %%
from sparse_triton.build import compile_kernel, resources, sass
from sparse_triton.kernels.unrolled.kernel import unrolled_source

source = unrolled_source(plan)
kernel = compile_kernel(source, arch=90)
machine = re.findall(r"/\*[0-9a-f]{4,}\*/\s+([^;]+?)\s*;", sass(kernel))
instructions = [line for line in machine if re.match(r"(@!?\w+ )?(FFMA|LDG)", line)]

# The first body's lines of PTX, from its label to its jump to the end.
ptx_lines = source.constants["ASM"].splitlines()
labels = [i for i, line in enumerate(ptx_lines) if line.startswith("B0")]
body = list(itertools.takewhile(lambda line: "bra" not in line, ptx_lines[labels[0] + 1 :]))
work = [line for line in body if line.startswith(("ld.global", "fma"))]
print(f"{'emitted PTX (row block 0, group 0)':58}| SASS of the kernel, loads and FMAs")
print("-" * 58 + "+" + "-" * 50)
for ptx, line in itertools.islice(zip(work, instructions, strict=False), 24):
    print(f"{ptx:58}| {line}")

# %% [markdown]
# The assembler reorders, so the two columns do not match line by line. The counts do: as many
# FMAs as non-zeros, as many loads as (group, used column) pairs.

# %%
ops = [op for ops in program.bodies for op in ops]
mnemonics = [re.sub(r"^@!?\w+ ", "", line).split()[0] for line in machine]
fmas = sum(m.startswith("FFMA") for m in mnemonics)
loads = sum(m.startswith("LDG") for m in mnemonics)
taken = resources(kernel)
print(f"non-zeros {W.nnz}, Fma ops {sum(isinstance(o, Fma) for o in ops)}, FFMA {fmas}")
print(f"Load ops {sum(isinstance(o, Load) for o in ops)}, LDG {loads} (the rest read row numbers)")
print(f"{taken.registers} registers a thread, {taken.spill_bytes} bytes spilled")
print(f"{taken.code_bytes} bytes of code, {taken.shared_bytes} bytes of shared memory")

# %%
kinds = {
    "FFMA": "FFMA", "LDG": "LDG", "shared memory": ("LDS", "STS"), "FADD": "FADD", "store": "STG",
}  # fmt: skip
counts = {name: sum(m.startswith(kind) for m in mnemonics) for name, kind in kinds.items()}
counts["other"] = len(mnemonics) - sum(counts.values())
figure, axis = plt.subplots(figsize=(6.5, 2.6), layout="constrained")
bars = axis.barh(list(counts), list(counts.values()), color="0.6", edgecolor="black")
axis.bar_label(bars, padding=3, fontsize=9)
axis.margins(x=0.1)
axis.invert_yaxis()
axis.set(xlabel="instructions in the kernel", title="what the machine code is made of")
plt.show()

# %% [markdown]
# ## The other way: the pattern as data
#
# Code has to be fetched, 16 bytes an instruction, which limits `unrolled` to weights of moderate
# size. Family `gather` keeps one kernel and reads the pattern: a list of (column, value) pairs
# per row and group, walked by the threads that own the row. Which of the two is faster depends on
# the shape: that is what [tuning](03_tuning.ipynb) is for.

# %%
from sparse_triton.kernels.gather.pack import packed_for

as_data = KernelConfig("gather", M_blocks=6, N_blocks=8, Gy=2, row_blocks="sorted", prefetch=4)
packed = packed_for(plan_spmm(problem, as_data, csr, H100))
first, length = packed.runs[0, 0, 0]
pairs = packed.pairs[first : first + length]
print(f"row {packed.rows[0, 0, 0]}, group 0: {length} pairs")
for column, bits in pairs[:6]:
    print(f"   column {column:3}, value {bits.view(np.float32): .4f}")
