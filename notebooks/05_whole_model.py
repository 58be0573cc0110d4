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
# # A whole model: prune, convert, save, load
#
# *I pruned my model; why is it not faster, and why is the file not smaller?* Because nothing that
# runs or stores it looks at the zeros. This notebook trains a small network on handwritten
# digits, prunes it to 90 % zeros while it goes on training, converts it in one line, and saves it
# to a file in which zeros cost next to nothing. On a GPU the network is wider.

# %%
# %matplotlib inline
import copy
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

folder = Path(tempfile.mkdtemp())
os.environ["SPARSE_TRITON_CACHE_DIR"] = str(folder / "store")
import sparse_triton as st
from sparse_triton.commands.timing import interleaved_us
from sparse_triton.prune import cubic

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
WIDTH = 4096 if GPU else 1024
EPOCHS, PRUNING_EPOCHS, BATCH, TEST = 3, 6, 128, 360
torch.manual_seed(0)

# %% [markdown]
# ## Train


# %%
def network() -> nn.Sequential:
    """Images [B, 1, 8, 8] to logits [B, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, 10),
    )


images, labels = load_digits(return_X_y=True)
order = torch.randperm(len(labels))
images = torch.from_numpy(images).float()[order].view(-1, 1, 8, 8).div(16).to(DEVICE)
labels = torch.from_numpy(labels).long()[order].to(DEVICE)
train_images, train_labels = images[TEST:], labels[TEST:]
test_images, test_labels = images[:TEST], labels[:TEST]


def train(model: nn.Module, epochs: int, pruning=None) -> None:
    """Adam on cross entropy; the pruning takes a step after each of the optimiser's."""
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(train_labels), device=DEVICE).split(BATCH):
            loss = nn.functional.cross_entropy(model(train_images[batch]), train_labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if pruning is not None:
                pruning.step()


@torch.no_grad()
def answers(model: nn.Module) -> torch.Tensor:
    """The digits a model sees in the test images."""
    return model.eval()(test_images).argmax(1)


def accuracy(model: nn.Module) -> float:
    """Share of test images that are classified right."""
    return float((answers(model) == test_labels).float().mean())


model = network().to(DEVICE)
train(model, EPOCHS)
print(f"dense: {accuracy(model):.1%} right")

# %% [markdown]
# ## Prune, and go on training
#
# `prune_` puts a mask on every layer that holds while the optimiser works; the schedule takes it
# from nothing to 90 % zeros, fast at first. `make_permanent` leaves plain weights with exact
# zeros.

# %%
steps = PRUNING_EPOCHS * -(-len(train_labels) // BATCH)
pruning = st.prune_(model, 0.9, schedule=cubic(steps // 2, every=4))
train(model, PRUNING_EPOCHS, pruning)
pruning.make_permanent()
model.requires_grad_(False)
print(f"pruned: {accuracy(model):.1%} right")

# %% [markdown]
# ## Convert
#
# `advise` says what `sparsify_` would do, before anything is touched: layer by layer, with the
# reason, the expected gain at the shapes of the example inputs, and the bytes. Where dense is
# faster a layer stays dense. Batch norms are folded, activations and pools become part of the
# kernels.

# %%
print(st.advise(model, example_inputs=test_images))

# %%
sparse = copy.deepcopy(model)
report = st.sparsify_(sparse, example_inputs=test_images)
print(sparse)

# %% [markdown]
# The bytes of each weight before and after, and the expected gain:

# %%
report.plot()

# %% [markdown]
# The same answers:

# %%
same = int((answers(model) == answers(sparse)).sum())
print(f"converted: {accuracy(sparse):.1%} right, {same} of {TEST} answers equal to the pruned ones")

# %% [markdown]
# ## Tune
#
# What one forward pass with these inputs runs is what is tuned; the winners are kept in the
# store. In production this is done once, on the GPU that will serve, with a larger budget.

# %%
tuned = st.warmup(sparse, test_images, seconds=1.0)
for one in tuned.tuned:
    print(f"{one.job.name}: {one.result}")

# %% [markdown]
# ## How fast
#
# One image at a time, and all test images at once.


# %%
@torch.no_grad()
def times(batch: int) -> tuple[float, float]:
    """Microseconds of one call, dense and sparse, measured in turns."""
    x = test_images[:batch]
    dense_us, sparse_us = interleaved_us([lambda: model(x), lambda: sparse(x)], DEVICE)
    return dense_us, sparse_us


batches = (1, 32, TEST)
measured = [times(batch) for batch in batches]
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for i, (label, shade) in enumerate((("pruned, dense kernels", "0.8"), ("converted", "0.35"))):
    at = [x + 0.4 * i - 0.2 for x in range(len(batches))]
    bars = axis.bar(at, [m[i] for m in measured], 0.4, color=shade, edgecolor="black", label=label)
    axis.bar_label(bars, fmt="%.0f", fontsize=8)
axis.set_xticks(range(len(batches)), [f"{b} images" for b in batches])
axis.set(ylabel="time of one call (µs)", yscale="log", title=f"whole network, {DEVICE.type}")
axis.margins(y=0.15)
axis.legend()
plt.show()

# %% [markdown]
# ## Save and load
#
# `save` writes safetensors: each weight as its non-zero values and a bitmap or indices, whichever
# is smaller. Tuned configurations travel along. `torch.save` stores the zeros.

# %%
torch.save(model.state_dict(), folder / "dense.pt")
saved = st.save(sparse, folder / "sparse.safetensors")
print(f"torch.save: {(folder / 'dense.pt').stat().st_size} bytes")
print(f"st.save:    {saved.bytes} bytes; {saved.packed} weights packed")

# %%
loaded = st.load(folder / "sparse.safetensors", network().to(DEVICE).eval())
assert torch.equal(answers(loaded), answers(sparse))
print(f"loaded:    {accuracy(loaded):.1%} right")
