"""Vector code that numba does not write by itself: one row times one column tile, in registers.

numba's own loops keep a tile's accumulators in memory and load and store them at every non-zero.
Here they are LLVM vectors, which live in registers across the whole row. LLVM splits a vector that
is wider than the machine's, so this is right everywhere and fast with AVX2, AVX-512, NEON or SVE.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

BITS = ir.IntType(64)
FLOAT = ir.FloatType()
FUSE = ("contract",)  # one fma where the machine has it; NaN and Inf keep their meaning
Value = Any  # llvmlite publishes no types


def row_times_tile(lanes: int, vectors: int, chains: int) -> Any:
    """``f(x, stride, columns, values, start, stop, out, add)`` for tiles of ``lanes * vectors``.

    out[j] = sum over e in start .. stop of values[e] * x[columns[e] * stride + j], added to what
    is there if add is not 0; addresses are integers, strides bytes. ``chains`` entries are under
    way at once, each with its own accumulators, so that few vectors do not wait for one another's
    latency; the chains are added at the end.
    """

    @intrinsic
    def multiply(context, x, stride, columns, values, start, stop, out, add):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            _Emitter(builder, lanes, vectors).emit(chains, *arguments)

        return types.void(*[types.int64] * 8), codegen

    return multiply


class _Emitter:
    """Spells the loop; ``builder`` is llvmlite's."""

    def __init__(self, builder: Any, lanes: int, vectors: int) -> None:
        self.builder, self.lanes, self.vectors = builder, lanes, vectors
        self.type = ir.VectorType(FLOAT, lanes) if lanes > 1 else FLOAT

    def emit(
        self, chains: int, x: Value, stride: Value, columns: Value, values: Value,
        start: Value, stop: Value, out: Value, add: Value,
    ) -> None:  # fmt: skip
        builder = self.builder
        sums = [[self._zero() for _ in range(self.vectors)] for _ in range(chains)]
        whole = builder.sub(stop, builder.srem(builder.sub(stop, start), ir.Constant(BITS, chains)))
        for first, last, count in ((start, whole, chains), (whole, stop, 1)):
            step = ir.Constant(BITS, count)
            with cgutils.for_range_slice(builder, first, last, step, intp=BITS) as (entry, _):
                for c in range(count):
                    at = builder.add(entry, ir.Constant(BITS, c))
                    self._add_entry(sums[c], x, stride, columns, values, at)
            if chains == 1:
                break
        self._store(self._total(sums), out, add)

    def _zero(self) -> Value:
        slot = cgutils.alloca_once(self.builder, self.type)
        zero = ir.Constant(self.type, [0.0] * self.lanes if self.lanes > 1 else 0.0)
        self.builder.store(zero, slot)
        return slot

    def _add_entry(
        self, sums: list[Value], x: Value, stride: Value, columns: Value, values: Value, at: Value
    ) -> None:
        builder = self.builder
        offset = builder.mul(at, ir.Constant(BITS, 4))
        k = builder.load(self._pointer(columns, offset, ir.IntType(32)))
        w = self._splat(builder.load(self._pointer(values, offset, FLOAT)))
        row = builder.mul(builder.sext(k, BITS), stride)
        for v, total in enumerate(sums):
            x_k = self._load(x, builder.add(row, self._vector_offset(v)))
            product = builder.fmul(w, x_k, flags=FUSE)
            builder.store(builder.fadd(builder.load(total), product, flags=FUSE), total)

    def _total(self, sums: list[list[Value]]) -> list[Value]:
        totals = [self.builder.load(slot) for slot in sums[0]]
        for chain in sums[1:]:
            loaded = [self.builder.load(slot) for slot in chain]
            totals = [self.builder.fadd(a, b) for a, b in zip(totals, loaded, strict=True)]
        return totals

    def _store(self, totals: list[Value], out: Value, add: Value) -> None:
        builder = self.builder
        adds = builder.icmp_signed("!=", add, ir.Constant(BITS, 0))
        with builder.if_else(adds) as (more, first):
            with more:
                for v, total in enumerate(totals):
                    before = self._load(out, self._vector_offset(v))
                    self._put(builder.fadd(before, total), out, v)
            with first:
                for v, total in enumerate(totals):
                    self._put(total, out, v)

    def _put(self, value: Value, out: Value, v: int) -> None:
        store = self.builder.store(value, self._pointer(out, self._vector_offset(v), self.type))
        store.align = 4

    def _load(self, base: Value, offset: Value) -> Value:
        load = self.builder.load(self._pointer(base, offset, self.type))
        load.align = 4  # X is aligned to its elements only
        return load

    def _vector_offset(self, v: int) -> Value:
        return ir.Constant(BITS, 4 * self.lanes * v)

    def _pointer(self, base: Value, offset: Value, type_: Any) -> Value:
        builder = self.builder
        bytes_ = builder.inttoptr(base, ir.IntType(8).as_pointer())
        return builder.bitcast(builder.gep(bytes_, [offset]), type_.as_pointer())

    def _splat(self, value: Value) -> Value:
        if self.lanes == 1:
            return value
        builder = self.builder
        undefined = ir.Constant(self.type, ir.Undefined)
        one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return builder.shuffle_vector(one, undefined, mask)


def _floats(context, address):  # type: ignore[no-untyped-def]
    """A float pointer from an address."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], FLOAT.as_pointer())

    return types.CPointer(types.float32)(types.int64), codegen


def _take_ticket(context, address):  # type: ignore[no-untyped-def]
    """The int64 at ``address`` before adding 1 to it, atomically."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        counter = builder.inttoptr(arguments[0], BITS.as_pointer())
        return builder.atomic_rmw("add", counter, ir.Constant(BITS, 1), "monotonic")

    return types.int64(types.int64), codegen


def _copy_line(context, to, source):  # type: ignore[no-untyped-def]
    """16 floats from one address to another."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        line = ir.VectorType(FLOAT, 16).as_pointer()
        to, source = (builder.inttoptr(address, line) for address in arguments)
        value = builder.load(source)
        value.align = 4
        builder.store(value, to).align = 4
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def _copy_every_other(context, to, source):  # type: ignore[no-untyped-def]
    """8 floats, every other one of the 16 at ``source``."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        to, source = arguments
        whole, half = ir.VectorType(FLOAT, 16), ir.VectorType(FLOAT, 8)
        value = builder.load(builder.inttoptr(source, whole.as_pointer()))
        value.align = 4
        even = ir.Constant(ir.VectorType(ir.IntType(32), 8), list(range(0, 16, 2)))
        picked = builder.shuffle_vector(value, ir.Constant(whole, ir.Undefined), even)
        builder.store(picked, builder.inttoptr(to, half.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def _power_of_two(context, rounded):  # type: ignore[no-untyped-def]
    """2**n as a float from ``1.5 * 2**23 + n``, -127 <= n <= 128; the ends give 0 and infinity."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        word = ir.IntType(32)
        n = builder.bitcast(arguments[0], word)  # n in the low bits, the rest is shifted out
        exponent = builder.shl(builder.add(n, ir.Constant(word, 127)), ir.Constant(word, 23))
        return builder.bitcast(exponent, FLOAT)

    return types.float32(types.float32), codegen


def _prefetch(write: bool) -> Any:
    def prefetch(context, address):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            number, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
            type_ = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
            function = cgutils.get_or_insert_function(builder.module, type_, "llvm.prefetch.p0")
            flags = [ir.Constant(number, flag) for flag in (int(write), 3, 1)]
            builder.call(function, [builder.inttoptr(arguments[0], pointer), *flags])
            return context.get_dummy_value()

        return types.void(types.int64), codegen

    return intrinsic(prefetch)


copy_every_other: Any = intrinsic(_copy_every_other)
copy_line: Any = intrinsic(_copy_line)
floats: Any = intrinsic(_floats)
power_of_two: Any = intrinsic(_power_of_two)
prefetch_read: Any = _prefetch(False)
prefetch_write: Any = _prefetch(True)
take_ticket: Any = intrinsic(_take_ticket)
