"""Family gather: the packed lists, their reference, and the Triton kernel under the interpreter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_triton import SparseMatrix, verify
from sparse_triton.device import Device
from sparse_triton.kernels import FAMILIES
from sparse_triton.kernels.gather.kernel import gather_source
from sparse_triton.kernels.gather.pack import ALIGN_PAIRS, Cut, pack, packed_for
from sparse_triton.partition import NO_ROW
from sparse_triton.plan import plan_spmm
from tests.strategies import legal_configs, matrices
from tests.support import problem_for, weight

DEVICE = Device.virtual_cuda(90)


@given(
    W=matrices(most=20),
    places=st.sampled_from([1, 2, 4, 16]),
    Gy=st.sampled_from([1, 2, 4, 8]),
    way=st.sampled_from(["sorted", "even_nnz", "split"]),
)
def test_lists_hold_each_entry_once(W: SparseMatrix, places: int, Gy: int, way: str) -> None:
    Gy = 1 if way == "split" else Gy
    packed = pack(W.csr, Cut(-(-W.shape[0] // places), places, Gy, way, ahead=8))  # type: ignore[arg-type]
    rebuilt = np.zeros(W.shape, dtype=np.float32)
    taken = np.zeros(len(packed.pairs), dtype=int)
    owners = owners_of(packed.rows)
    for (b, g, i), start in np.ndenumerate(packed.runs[..., 0]):
        count = packed.runs[b, g, i, 1]
        assert start % ALIGN_PAIRS == 0
        assert start + count + 8 <= len(packed.pairs) + ALIGN_PAIRS
        taken[start : start + count] += 1
        columns, bits = packed.pairs[start : start + count].T
        row = owners[b, i]
        if row == NO_ROW:
            assert count == 0
            continue
        assert (np.diff(columns) > 0).all()
        assert (rebuilt[row, columns] == 0).all()
        rebuilt[row, columns] = np.ascontiguousarray(bits).view(np.float32)
        length, lists = W.csr.row_lengths[row], Gy * int((owners == row).sum())
        assert count in (length // lists, -(-length // lists))
    assert taken.max(initial=0) <= 1
    assert np.array_equal(rebuilt, W.csr.to_dense())
    begins = packed.rows[..., 0]
    assert sorted(begins[begins != NO_ROW].tolist()) == list(range(W.shape[0]))


def owners_of(rows: np.ndarray) -> np.ndarray:
    """[blocks, block_m] row of each place: where it begins and where it has further places."""
    owners = np.full(rows.shape[:2], NO_ROW)
    for b, i in np.argwhere(rows[..., 0] != NO_ROW):
        row, further = rows[b, i]
        assert (owners[b, i : i + further + 1] == NO_ROW).all()
        assert i + further < rows.shape[1]
        owners[b, i : i + further + 1] = row
    return owners


def test_a_long_row_takes_several_places() -> None:
    """One row of 200 among 63 of 4: with 16 places to spare, its lists are a twelfth as long."""
    w = np.zeros((64, 256), dtype=np.float32)
    w[:, :4] = 1.0
    w[17, :200] = 2.0
    csr = SparseMatrix.from_dense(w).csr
    whole = pack(csr, Cut(5, 16, 1, "even_nnz", ahead=8))
    split = pack(csr, Cut(5, 16, 1, "split", ahead=8))
    assert whole.runs[..., 1].max() == 200
    assert len(split.rows) == 5
    (further,) = split.rows[split.rows[..., 0] == 17][:, 1]
    assert split.runs[..., 1].max() == -(-200 // (further + 1)) <= 13


@given(data=st.data(), W=matrices(most=24).filter(lambda W: W.nnz > 0))
def test_reference_is_within_the_bound(data: st.DataObject, W: SparseMatrix) -> None:
    N = data.draw(st.sampled_from([1, 8, 49]))
    problem = problem_for(W, N, x_layout=data.draw(st.sampled_from(["row", "column"])))
    config = data.draw(legal_configs(problem, DEVICE, "gather"))
    plan = plan_spmm(problem, config, W.csr, DEVICE)
    X = torch.randn(W.shape[1], N, generator=torch.Generator().manual_seed(0))
    Y = torch.from_numpy(FAMILIES["gather"].reference(plan, X.numpy()))
    assert verify.worst_ratio(Y, W, X, Gy=config.Gy) <= 1.0


def test_weight_is_packed_once_for_all_columns() -> None:
    W = weight("random", 16, 32)
    config = FAMILIES["gather"].default_config(problem_for(W, 32), DEVICE)
    plans = [plan_spmm(problem_for(W, N), config, W.csr, DEVICE) for N in (32, 64)]
    assert packed_for(plans[0]) is packed_for(plans[1])


@given(data=st.data(), x_dtype=st.sampled_from(["float32", "float16", "bfloat16"]))
def test_text(data: st.DataObject, x_dtype: str) -> None:
    """Two trips in turns load and multiply ``prefetch`` pairs each, the last one pair less."""
    W = weight("random", 16, 32)
    problem = problem_for(W, 64, x_dtype=x_dtype)
    config = data.draw(legal_configs(problem, DEVICE, "gather"))
    source = gather_source(plan_spmm(problem, config, W.csr, DEVICE))
    lines = source.constants["ASM"].split("\n")
    pairs = 3 * config.prefetch - 1
    columns = config.vector * config.repeat
    assert sum("fma.rn.f32" in line for line in lines) == pairs * columns
    x_loads = [line for line in lines if "ld.global" in line and "[a" in line]
    assert len(x_loads) == pairs * config.repeat
    constraints = source.constants["CONSTRAINTS"].split(",")
    assert constraints.count("=f") == columns
    operands = {int(n) for n in re.findall(r"\$(\d+)", source.constants["ASM"])}
    assert operands <= set(range(len(constraints)))


@pytest.fixture(scope="module")
def interpreted() -> list[dict[str, object]]:
    """What ``tests.unit.interpreted`` found, in a process of its own."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(root)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.interpreted"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        cwd=root, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_kernel_in_the_interpreter(interpreted: list[dict[str, object]]) -> None:
    """Layouts, epilogues, batches, dtypes, patterns; X with Inf leaves no NaN behind."""
    assert len(interpreted) == 4 * 6 + 5 + 4 + 6 + 12
    for found in interpreted:
        # The interpreter rounds to bfloat16 towards zero: twice the error of a GPU.
        limit = 2.0 if "bfloat16" in str(found["case"]) else 1.0
        assert found["ratio"] <= limit, found["case"]  # type: ignore[operator]
