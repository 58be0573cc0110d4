"""What an untuned call takes. The thresholds are measured, see ``benchmarks/NOTES.md``."""

from __future__ import annotations

from sparse_triton.config import KernelConfig
from sparse_triton.device import Device
from sparse_triton.kernels import CONV_FAMILIES, families_of
from sparse_triton.kernels.conv.families import SHORT_PROGRAMS as SHORT_CONV
from sparse_triton.kernels.conv.families import SOME_PIXELS
from sparse_triton.kernels.conv.launches import compiled_together
from sparse_triton.kernels.conv.shape import unrolled_shape
from sparse_triton.kernels.pairs.estimate import pairs_us
from sparse_triton.kernels.tf32x3.estimate import tensor_cores_us
from sparse_triton.kernels.unrolled.estimate import in_turns
from sparse_triton.plan import why_not
from sparse_triton.problem import MANY_COLUMNS, ConvProblem, Problem, SpmmProblem

# Non-zeros an untuned call may compile into a program: about ten seconds, once.
QUICKLY_COMPILED = 40_000

# Where its programs take turns, in two pieces assembled side by side.
COMPILED_IN_PIECES = 60_000

# Of a convolution about twenty, because gather then takes 1.5 times as long.
COMPILED_CONV = 60_000

# So many in several launches: as long on four cores, a minute and a half on one.
MOST_COMPILED_CONV = 240_000

# From here on a warp of token-major columns would fetch a line of X for each of them.
TURNED_COLUMNS = 16

# Outputs from which on each row block's program is run by enough lanes to pay for fetching it.
FILLED_BY_OUTPUTS = 1_200_000

# Zeros from which on gather beats cuBLAS's float32 product: level at 50 and 57 % on the shapes of
# the sparsity sweep. A weight pruned to 60 % often has a few zeros less.
GATHER_BREAK_EVEN = 0.57

# From here on dense tiles on tensor cores, at float32's accuracy, beat cuBLAS's float32 product.
TENSOR_CORE_COLUMNS = 1536
LONG_SUMS = 1_500_000_000  # multiplications of the dense product

# Mean non-zeros of a row from which on the bound of pairs is at most 3 times that of tf32x3.
PAIRED_ROWS = 48
# Rows from which on pairs, whose tiles they fill, takes less than any program where it pays.
FULL_PAIRS = 256

# Mean non-zeros of a row beyond which a program that is not too long holds too few rows for one
# reading of X.
LONG_ROWS = 96

# Programs this short (non-zeros) pay for their fetching with fewer columns; those of a few hundred
# leave nothing to win.
TINY_PROGRAMS, SHORT_PROGRAMS = 400, 2000
SOME_COLUMNS = 2048


def default_config(problem: Problem, device: Device) -> KernelConfig:
    """The heuristic for a problem nobody tuned: a family, then its own default.

    On a GPU the fitted rule is: dense below break-even, on tensor cores (tf32x3, or pairs where
    zeros let columns pair up) where columns are many; unrolled where columns are many enough to
    pay for fetching one program per row block; gather elsewhere. On a CPU: cpu, or dense below
    break-even.
    """
    families = families_of(problem)
    for name in _order(problem, device):
        config = families[name].default_config(problem, device)
        if why_not(problem, config, device) is None:
            return config
    raise AssertionError("dense takes every problem")


def _order(problem: Problem, device: Device) -> tuple[str, ...]:
    if isinstance(problem, ConvProblem):
        cuda = device.kind == "cuda"
        return _preferred_conv(problem, device) if cuda else _preferred_cpu_conv(problem)
    return _preferred(problem, device) if device.kind == "cuda" else _preferred_cpu(problem)


def _preferred_conv(problem: ConvProblem, device: Device) -> tuple[str, ...]:
    """One channel a group has nothing to skip; 16-bit convolutions compete with tensor cores."""
    pixels = problem.N * problem.batch
    if problem.sparsity < 0.7 or problem.groups == problem.C:
        return ("dense",)
    if problem.x_itemsize == 2 and (problem.sparsity < 0.9 or pixels >= MANY_COLUMNS):
        return ("dense",)
    unrolled_pays = pixels >= MANY_COLUMNS or (pixels >= 1024 and problem.nnz <= 4_000)
    unrolled_pays |= pixels >= SOME_PIXELS and problem.nnz > SHORT_CONV
    if unrolled_pays and (problem.nnz <= COMPILED_CONV or _cut_for_compiling(problem, device)):
        return ("unrolled", "gather", "dense")
    return ("gather", "dense")


def _cut_for_compiling(problem: ConvProblem, device: Device) -> bool:
    """Whether wide programs fill the device in launches that are short enough to be compiled, side
    by side."""
    family = CONV_FAMILIES["unrolled"]
    config = family.default_config(problem, device)
    if problem.nnz > MOST_COMPILED_CONV or family.why_not(problem, config, device) is not None:
        return False
    shape = unrolled_shape(problem, config)
    return shape.starts > 1 and compiled_together(problem, shape, device) <= COMPILED_CONV


def _preferred(problem: SpmmProblem, device: Device) -> tuple[str, ...]:
    if decode_pays(problem):
        return ("decode", "gather", "dense")
    if bound_by_weight(problem) and problem.sparsity < 0.97:
        return ("dense",)
    columns = problem.N * problem.batch
    if _in_16_bits(problem):
        return (*_gathered(columns), "dense") if _half_pays(problem) else ("dense",)
    if _takes_turns(problem, device):
        return ("unrolled", *_gathered(columns), "dense")
    outputs, many = problem.M * columns, _many_columns(problem)
    pairs_pay = columns >= TENSOR_CORE_COLUMNS and _pairs_pay(problem, device)
    if pairs_pay and many and problem.M >= FULL_PAIRS:
        return ("pairs", "tf32x3", "dense")
    few_enough = problem.nnz <= QUICKLY_COMPILED and problem.sparsity >= 0.75
    short = problem.nnz <= LONG_ROWS * problem.M or not _tensor_cores_pay(problem, device)
    if few_enough and short and many and outputs >= FILLED_BY_OUTPUTS:
        return ("unrolled", *_gathered(columns), "dense")
    brief = TINY_PROGRAMS <= problem.nnz <= SHORT_PROGRAMS
    if brief and columns >= SOME_COLUMNS and problem.sparsity >= 0.87:
        return ("unrolled", *_gathered(columns), "dense")
    if pairs_pay:
        return ("pairs", "tf32x3", "dense")
    if columns >= TENSOR_CORE_COLUMNS and _tensor_cores_pay(problem, device):
        return ("tf32x3", "dense")
    if problem.sparsity < GATHER_BREAK_EVEN:
        return ("dense",)
    return (*_gathered(columns), "dense")


def _takes_turns(problem: SpmmProblem, device: Device) -> bool:
    """Whether programs that fill the device, a multiprocessor each, take less than dense tiles on
    tensor cores would."""
    found = in_turns(problem, device)
    if found is None or problem.sparsity < 0.75 or problem.nnz > COMPILED_IN_PIECES:
        return False
    if _tensor_cores_pay(problem, device) and found[0] >= tensor_cores_us(problem, device):
        return False
    return not _pairs_pay(problem, device) or found[0] < pairs_us(problem, device)


def _tensor_cores_pay(problem: SpmmProblem, device: Device) -> bool:
    """Dense tiles at float32's accuracy; measured on sm_90 with row-major X. They take the time of
    gather at 93 % zeros, or 97 % where X is large."""
    break_even = 0.97 if _many_columns(problem) else 0.93
    measured = device.arch >= 90 and problem.x_layout == "row"
    return measured and _filled(problem) and problem.sparsity < break_even


def _pairs_pay(problem: SpmmProblem, device: Device) -> bool:
    """Columns find partners, and sparse tensor cores are faster than dense ones by both estimates;
    gather takes their time at 96 % zeros, or 97 % where X is large."""
    break_even = 0.97 if _many_columns(problem) else 0.96
    if not _filled(problem) or problem.sparsity >= break_even:
        return False
    if problem.nnz < PAIRED_ROWS * problem.M:
        return False
    return pairs_us(problem, device) < tensor_cores_us(problem, device)


def _filled(problem: SpmmProblem) -> bool:
    """A long K does with fewer outputs."""
    outputs = problem.M * problem.N * problem.batch
    return outputs >= FILLED_BY_OUTPUTS or outputs * problem.K >= LONG_SUMS


def _many_columns(problem: SpmmProblem) -> bool:
    return problem.N * problem.batch >= MANY_COLUMNS


def _half_pays(problem: SpmmProblem) -> bool:
    """In 16 bits dense is a matter of tensor cores, which want rows of whole 16 bytes."""
    columns = problem.N * problem.batch
    if problem.N % 8 and problem.x_layout == "row":
        return problem.sparsity >= 0.8 and columns < 1024
    few = 250_000 if problem.sparsity >= 0.94 else 150_000
    short = problem.nnz * columns <= 15_000_000
    return problem.sparsity >= 0.89 and problem.M * columns <= few and short


def _gathered(columns: int) -> tuple[str, ...]:
    return ("turned", "gather") if columns >= TURNED_COLUMNS else ("gather",)


def _in_16_bits(problem: SpmmProblem) -> bool:
    return problem.x_itemsize == 2 and problem.w_dtype != "float32"


def bound_by_weight(problem: SpmmProblem) -> bool:
    """Whether a product on a GPU takes as long as reading its 16-bit weight: few columns, and
    2**20 elements or more (below, it takes as long as a launch)."""
    return (
        _in_16_bits(problem) and problem.N * problem.batch <= 32 and problem.M * problem.K >= 2**20
    )


def decode_pays(problem: SpmmProblem) -> bool:
    """Whether compressing such a weight saves enough: break-even is at 35 % zeros for up to 4
    columns, 40 % for up to 8, 48 % for up to 16, 20 % more where tensor cores need X a value at a
    time; above, only a tuned call takes decode."""
    columns = problem.N * problem.batch
    break_even = 0.35 if columns <= 4 else 0.4 if columns <= 8 else 0.48
    if problem.N > 4 and (problem.x_layout == "row" or problem.K % 8):
        break_even += 0.2
    return bound_by_weight(problem) and columns <= 16 and problem.sparsity >= break_even


def _preferred_cpu(problem: SpmmProblem) -> tuple[str, ...]:
    """Break-even depends on how good the dense call is: worst in float16 and at a few columns.
    Token-major X and Y are turned, which too few entries a row of X or of Y do not pay for."""
    turned = problem.x_layout == "column" and problem.N > 1
    if turned and problem.nnz < max(2 * problem.K, 8 * problem.M):
        return ("dense",)
    dtypes = {problem.x_dtype, problem.w_dtype}
    if dtypes == {"float16"}:
        break_even = 0.0
    elif dtypes == {"bfloat16"}:
        break_even = 0.75
    else:
        break_even = 0.7 if problem.N * problem.batch == 1 else 0.5
    return ("cpu", "dense") if problem.sparsity >= break_even else ("dense",)


def _preferred_cpu_conv(problem: ConvProblem) -> tuple[str, ...]:
    """Break-even is that of the library's convolution: slow in float16, fast in bfloat16. With one
    channel a group (depthwise) the library has a kernel of its own, and no row is long."""
    dtypes = {problem.x_dtype, problem.w_dtype}
    if dtypes == {"float16"}:
        break_even = 0.0
    elif 1 < problem.groups == problem.C:
        return ("dense",)
    else:
        break_even = 0.75 if dtypes == {"bfloat16"} else 0.55
    return ("cpu", "dense") if problem.sparsity >= break_even else ("dense",)
