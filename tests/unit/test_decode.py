"""Family decode: packed lists, the addresses that PTX makes of gaps, laws, reference."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_triton import SparseMatrix, verify
from sparse_triton.config import Format, KernelConfig
from sparse_triton.device import Device
from sparse_triton.heuristics import default_config
from sparse_triton.kernels import FAMILIES
from sparse_triton.kernels.decode.kernel import decode_source
from sparse_triton.kernels.decode.limits import WalkShape
from sparse_triton.kernels.decode.pack import Lists, entries_of, pack, starts
from sparse_triton.kernels.decode.stage import Stage, Way, stage
from sparse_triton.kernels.decode.steps import STEP, addresses, skipped
from sparse_triton.kernels.decode.walk import Walk, exchange
from sparse_triton.partition import NO_ROW
from sparse_triton.plan import plan_spmm, why_not
from sparse_triton.problem import SpmmProblem
from tests.ptx import Thread
from tests.strategies import legal_configs, matrices
from tests.support import PATTERNS, dense_weight, problem_for, weight

H100 = Device("cuda", "h100", 90, cores=132, shared_bytes=227 * 1024)
HALVES = (torch.float16, torch.bfloat16)


def half(pattern: str, M: int, K: int, density: float = 0.1) -> SparseMatrix:
    return SparseMatrix.from_dense(dense_weight(pattern, M, K, density).half())


def problem(M: int = 4096, K: int = 4096, N: int = 1, sparsity: float = 0.5) -> SpmmProblem:
    nnz = round(M * K * (1 - sparsity))
    return SpmmProblem(
        M, K, N, nnz, x_dtype="float16", w_dtype="float16", x_layout="column", y_layout="column"
    )


def unpacked(lists: Lists, shape: tuple[int, int]) -> np.ndarray:
    """[M, K] bits of the values; each stored entry exactly once."""
    out = np.zeros(shape, dtype=np.int16)
    for (block, place), row in np.ndenumerate(lists.rows):
        columns, bits = entries_of(lists, block, place)
        if row == NO_ROW:
            assert len(bits) == 0
            continue
        assert (out[row, columns] == 0).all()
        out[row, columns] = bits
    return out


@pytest.mark.parametrize("gap_bits", [4, 8, 16])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_lists_hold_each_entry_once(pattern: str, gap_bits: int) -> None:
    W = half(pattern, 45, 333, 0.03)
    lists = pack(W.csr, 16, gap_bits, "float16")
    bits = W.to_dense().view(torch.int16).numpy()
    assert np.array_equal(unpacked(lists, W.shape), bits)
    assert sorted(lists.rows[lists.rows != NO_ROW].tolist()) == list(range(45))


@given(W=matrices(most=24, dtypes=HALVES), gap_bits=st.sampled_from([4, 8, 16]))
def test_any_pattern_survives(W: SparseMatrix, gap_bits: int) -> None:
    dtype = str(W.dtype).removeprefix("torch.")
    lists = pack(W.csr, 8, gap_bits, dtype)
    bits = W.to_dense().view(torch.int16).numpy()
    assert np.array_equal(unpacked(lists, W.shape), np.where(bits == -32768, 0, bits))


@pytest.mark.parametrize("density", [0.0003, 0.44, 0.5, 1.0])
@pytest.mark.parametrize("Gy", [1, 4, 32])
def test_pieces_begin_where_the_one_before_ends(density: float, Gy: int) -> None:
    W = half("random", 20, 700, density)
    lists = pack(W.csr, 8, 4, "float16")
    for (block, g, place), before in np.ndenumerate(starts(lists, Gy)):
        first, end = lists.first_step[block : block + 2]
        at = (end - first) * g // Gy
        columns, _ = entries_of(lists, block, place)
        stored = lists.values[first : first + at, place].reshape(-1)
        if (lists.values[first + at : end, place] != 0).any():
            earlier = columns[: np.count_nonzero(stored)]
            assert before >= (earlier.max() if len(earlier) else -1)
            assert before < columns[np.count_nonzero(stored)]


def test_a_weight_costs_little_more_than_its_values_and_gaps() -> None:
    """Rows of a block have nearly the same length: padding is below 2 % of 2.5 bytes."""
    W = half("random", 256, 4096, 0.5)
    lists = pack(W.csr, 32, 4, "float16")
    assert lists.values.nbytes + lists.gaps.nbytes < 2.5 * 1.02 * W.nnz


@given(
    gaps=st.lists(st.integers(0, 255), min_size=STEP, max_size=STEP),
    gap_bits=st.sampled_from([4, 8]),
    column_bytes=st.sampled_from([2, 4, 8, 16, 32]),
)
def test_addresses(gaps: list[int], gap_bits: int, column_bytes: int) -> None:
    gaps = [g & ((1 << gap_bits) - 1) for g in gaps]
    word = sum(g << gap_bits * j for j, g in enumerate(gaps))
    registers = {"at": 1000}
    registers |= {"g0": word & 0xFFFFFFFF, "g1": word >> 32}
    thread = Thread(registers, {})
    thread.run(list(addresses(gap_bits, column_bytes, 0)))
    registers = thread.registers
    at = 1000
    for j, gap in enumerate(gaps):
        at += (gap + 1) * column_bytes
        assert registers[f"a{j}"] + (j + 1) * column_bytes == at
    assert registers["at"] == at


@pytest.mark.parametrize("column_bytes", [2, 8, 32])
def test_addresses_of_columns(column_bytes: int) -> None:
    columns = [0, 1, 65535, 3, 40_000, 2, 7, 65534]
    words = {f"g{j}": columns[2 * j] | columns[2 * j + 1] << 16 for j in range(STEP // 2)}
    thread = Thread(words | {"at": 1000}, {})
    thread.run(list(addresses(16, column_bytes, 0)))
    for j, column in enumerate(columns):
        at = thread.registers[f"a{j}"] + skipped(16, column_bytes, j)
        assert at == 1000 + column * column_bytes


@pytest.mark.parametrize("vector", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("K", [7, 8, 64, 70])
@pytest.mark.parametrize("way", ["copy", "pairs", "any"])
def test_columns_of_x_are_staged_by_threads(way: Way, K: int, vector: int) -> None:
    """Every way leaves [K][vector] with zeros past N, reads X alone and writes the window alone."""
    if way == "pairs" and K % 2:
        pytest.skip("an odd K is staged by single values")
    N = vector if way == "copy" else max(1, vector - vector // 4)
    x = np.random.default_rng(0).integers(1, 2**16, (N, K), dtype=np.uint16)
    memory = x if way == "pairs" else np.ascontiguousarray(x.T)
    strides = (1, K) if way == "pairs" else (N, 1)
    shared = np.full(2 * K * vector, 0xAB, dtype=np.uint8)
    memories = {"global": memory.reshape(-1).view(np.uint8), "shared": shared}
    for thread in range(32):
        s = Stage(K, vector, 32, way, "x", "sk", "sn", "columns", "thread")
        operands = {"x": 0, "sk": strides[0], "sn": strides[1], "columns": N, "thread": thread}
        Thread({**operands, "window": 0}, memories).run(list(stage(s)))
    want = np.zeros((K, vector), dtype=np.uint16)
    want[:, :N] = x.T
    assert np.array_equal(shared.view(np.uint16).reshape(K, vector), want)


@pytest.mark.parametrize("vector", [1, 4, 8])
@pytest.mark.parametrize(("block_m", "Gy"), [(32, 8), (8, 32)])
def test_partial_sums_of_all_pieces_are_added(block_m: int, Gy: int, vector: int) -> None:
    """Thread t ends with row t % block_m, column t // block_m; whole numbers stand for floats."""
    shape = WalkShape(block_m, vector, Gy)
    walk = Walk(64, "float16", "float16", shape, 4, 2, "copy", True)
    lines = list(exchange(walk, "thread", "out"))
    barrier = len(lines) - 1 - lines[::-1].index("bar.sync 0;")
    memories = {"shared": np.zeros(shape.window_bytes(64), dtype=np.uint8)}
    acc = np.random.default_rng(0).integers(0, 1000, (vector, Gy, block_m))
    threads = []
    for number in range(shape.threads):
        own = {f"acc{j}": int(acc[j].reshape(-1)[number]) for j in range(vector)}
        threads.append(Thread({"thread": number, "window": 0, **own}, memories))
        threads[-1].run([line for line in lines[:barrier] if line != "bar.sync 0;"])
    for thread in threads:
        thread.run(lines[barrier + 1 :])
    out = [thread.registers["out"] for thread in threads[: block_m * vector]]
    assert np.array_equal(np.reshape(out, (vector, block_m)), acc.sum(axis=1))


@given(data=st.data(), W=matrices(most=24, dtypes=HALVES).filter(lambda W: W.nnz > 0))
def test_reference_is_within_the_bound(data: st.DataObject, W: SparseMatrix) -> None:
    N = data.draw(st.sampled_from([1, 3, 8]))
    p = problem_for(W, N, x_dtype=str(W.dtype).removeprefix("torch."))
    config = data.draw(legal_configs(p, H100, "decode"))
    plan = plan_spmm(p, config, W.csr, H100)
    X = torch.randn(W.shape[1], N, generator=torch.Generator().manual_seed(0)).to(W.dtype)
    Y = torch.from_numpy(FAMILIES["decode"].reference(plan, X.float().numpy()))
    assert verify.worst_ratio(Y, W, X.float(), Gy=config.Gy) <= 1.0


@pytest.mark.parametrize("N", [1, 8])
def test_weight_is_packed_once_for_all_columns(N: int) -> None:
    W = half("random", 32, 64)
    config = KernelConfig("decode", 1, Gy=16, row_blocks="sorted")
    plans = [plan_spmm(problem_for(W, n, x_dtype="float16"), config, W.csr, H100) for n in (N, 2)]
    first, second = (decode_source(plan).arrays for plan in plans)
    assert all(first[name] is second[name] for name in first)


@given(data=st.data(), x_dtype=st.sampled_from(["float16", "bfloat16"]))
def test_text(data: st.DataObject, x_dtype: str) -> None:
    """A step gathers and multiplies eight entries, each under its predicate; operands exist."""
    W = half("random", 32, 64)
    p = problem_for(W, data.draw(st.sampled_from([1, 4, 5, 16])), x_dtype=x_dtype)
    config = data.draw(legal_configs(p, H100, "decode"))
    source = decode_source(plan_spmm(p, config, W.csr, H100))
    text = source.constants["ASM"]
    lines = text.split("\n")
    operands = {int(n) for n in re.findall(r"\$(\d+)", text)}
    assert operands <= set(range(len(source.constants["CONSTRAINTS"].split(","))))
    labels = re.findall(r"^(\w+)_\$\{:uid\}:$", text, re.M)
    assert len(labels) == len(set(labels))
    entries = STEP * config.prefetch
    if config.format == "bitmap":  # 32 elements a lane and record, from wherever its values lie
        assert sum("ld.shared.u16" in line for line in lines) == 32
        assert sum("cp.async.commit_group" in line for line in lines) == config.prefetch
    else:
        products = [line for line in lines if "fma.rn.f32" in line]
        assert len(products) == entries * source.constants["VECTOR"]
        assert all(line.startswith("@there") for line in products)


LAWS = [
    (problem(N=33), {}, "decode takes N up to 32"),
    (problem(sparsity=1.0), {}, "nothing to multiply"),
    (problem(), {"Gy": 3}, "Gy must be a power of two"),
    (problem(), {"Gy": 64}, r"64 \* 32 threads must lie in"),
    (problem(), {"format": "csr"}, "format must be one of"),
    (problem(K=70_000), {"format": "columns16"}, "holds K up to 65536"),
    (problem(), {"format": "bitmap", "Gy": 64}, "warps must be at most 32"),
    (problem(), {"format": "bitmap", "prefetch": 1}, "prefetch must lie in 2"),
    (problem(), {"format": "bitmap", "prefetch": 8}, "use a smaller prefetch"),
    (problem(), {"format": "bitmap", "Gy": 8, "M_blocks": 1}, "a program takes 16, 32, 64 rows"),
    (problem(), {"M_blocks": 1}, "a program takes 8, 16, 32 rows"),
    (problem(), {"prefetch": 64}, "registers"),
    (problem(N=8), {"Gy": 4}, "columns a thread"),
    (problem(N=8, K=28672), {}, "shared memory"),
]


@pytest.mark.parametrize(("p", "fields", "law"), LAWS)
def test_laws(p: SpmmProblem, fields: dict[str, int], law: str) -> None:
    config = KernelConfig(
        "decode", **{"M_blocks": 128, "Gy": 16, "row_blocks": "sorted", "prefetch": 2} | fields
    )
    assert re.search(law, why_not(p, config, H100) or "")


def test_dtypes() -> None:
    W = weight("random", 64, 64)
    config = KernelConfig("decode", 2, Gy=16, row_blocks="sorted", prefetch=2)
    assert "float16 and bfloat16" in (why_not(problem_for(W, 1), config, H100) or "")
    mixed = SpmmProblem(64, 512, 8, 99, x_dtype="bfloat16", w_dtype="float16")
    assert why_not(mixed, config, H100) is None
    expanded = KernelConfig("decode", 2, Gy=16, row_blocks="sorted", prefetch=2, format="bitmap")
    assert "equal dtypes" in (why_not(mixed, expanded, H100) or "")
    old = Device.virtual_cuda(80)
    bf16 = SpmmProblem(64, 512, 1, 99, x_dtype="bfloat16", w_dtype="bfloat16")
    assert "sm_90" in (why_not(bf16, config, old) or "")


@pytest.mark.parametrize(
    ("N", "sparsity", "format"),
    [(1, 0.5, "gaps4"), (4, 0.9, "gaps8"), (8, 0.5, "bitmap"), (8, 0.9, "gaps8"),
     (16, 0.7, "bitmap"), (16, 0.95, "gaps8")],
)  # fmt: skip
def test_formats_taken(N: int, sparsity: float, format: Format) -> None:
    taken = default_config(problem(N=N, sparsity=sparsity), H100)
    assert (taken.kernel, taken.format) == ("decode", format)


def test_break_even() -> None:
    """Lower where X is token-major; never decode where it was measured to lose."""
    token_major = problem(N=16, sparsity=0.55)
    assert default_config(token_major, H100).kernel == "decode"
    assert default_config(replace(token_major, x_layout="row"), H100).kernel == "dense"
    assert default_config(problem(N=16, sparsity=0.45), H100).kernel == "dense"
    assert default_config(problem(N=32, sparsity=0.9), H100).kernel == "dense"


@pytest.mark.parametrize("N", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("sparsity", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("shape", [(4096, 4096), (28672, 8192), (8192, 28672), (1024, 4096)])
def test_default_is_taken_for_llm_layers(shape: tuple[int, int], sparsity: float, N: int) -> None:
    p = problem(*shape, N, sparsity)
    own = FAMILIES["decode"].default_config(p, H100)
    assert why_not(p, own, H100) is None
    if N == 1:
        assert default_config(p, H100) == own
