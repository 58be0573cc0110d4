"""The published pruned ResNet-50 (90 % zeros in every layer), converted in one call.

    python -m examples.resnet50 --data DIR

The patterns are real (Deep Learning Matrix Collection), the values normal, the input noise: shapes,
sparsity and times are those of the network, its answers mean nothing. DIR, or the variable
SPARSE_TRITON_DATA, is the folder that holds ``dlmc``.
"""

from __future__ import annotations

import argparse
import copy

import torch

import sparse_triton as st
from benchmarks.networks import NETWORKS
from benchmarks.problems import data_folder
from sparse_triton.commands.timing import interleaved_us
from sparse_triton.errors import SparseTritonError


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", help="folder of the patterns (default: $SPARSE_TRITON_DATA)")
    parser.add_argument("--batch", type=int, default=1)
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=here, help="where to run it (%(default)s)")
    parser.add_argument("--tune", action="store_true", help="search configurations first")
    args = parser.parse_args(argv)
    try:
        network = NETWORKS["resnet50"]
        dense = network.build(data_folder(args.data)).to(args.device)
    except (SparseTritonError, OSError) as e:
        parser.exit(2, f"{e}\n")
    compare(dense, network.inputs(args.batch).to(args.device), args.tune)


@torch.inference_mode()
def compare(dense: torch.nn.Module, x: torch.Tensor, tune: bool) -> None:
    """Convert, then largest difference and times against the dense network."""
    sparse = copy.deepcopy(dense)
    print(st.sparsify_(sparse, example_inputs=x))
    if tune:
        st.warmup(sparse, x)
    y, expected = sparse(x), dense(x)
    difference = float((y - expected).abs().max() / expected.abs().max())
    print(f"\nlargest difference from dense: {difference:.1e} of the largest output")
    dense_us, sparse_us = interleaved_us([lambda: dense(x), lambda: sparse(x)], x.device)
    print(
        f"batch {len(x)}: dense {dense_us / 1e3:.2f} ms, sparse {sparse_us / 1e3:.2f} ms, "
        f"{dense_us / sparse_us:.2f} times"
    )


if __name__ == "__main__":
    main()
