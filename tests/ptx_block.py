"""A thread block of PTX, interpreted: warps in step, lanes that part and meet, tensor cores.

Each warp runs the instruction that most of its lanes are furthest behind at; a block's warps run
one after the other up to their next barrier. Registers hold bits; float32 is computed as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

WARP = 32
M32 = np.uint64(0xFFFFFFFF)
U64 = NDArray[np.uint64]
SKIPPED = ("griddepcontrol", "cp.async.commit_group", "cp.async.wait", "bar.warp")


class Block:
    """Memories are byte arrays; an address in global memory is an offset into ``memory``."""

    def __init__(self, lines: list[str], memory: NDArray[np.uint8], shared_bytes: int) -> None:
        text = [re.sub(r"\s+", " ", line.replace("_${:uid}", "")).strip() for line in lines]
        self.lines = [t for t in text if t and not t.startswith(".") and t not in "{}"]
        self.labels = {t[:-1]: i for i, t in enumerate(self.lines) if t.endswith(":")}
        self.memory = {"global": memory, "shared": np.zeros(shared_bytes, dtype=np.uint8)}

    def run(self, operands: dict[str, NDArray[np.uint64]]) -> list[dict[str, U64]]:
        """``operands``: a value a thread; returns the registers of each warp."""
        threads = len(next(iter(operands.values())))
        warps = [
            _Warp(self, {name: v[i : i + WARP].copy() for name, v in operands.items()})
            for i in range(0, threads, WARP)
        ]
        running = [warp.steps() for warp in warps]
        while running:
            running = [w for w in running if next(w, None) is not None]
        return [warp.registers for warp in warps]


class _Warp:
    def __init__(self, block: Block, registers: dict[str, U64]) -> None:
        self.block, self.registers = block, registers
        self.registers |= {"anchor": _all(0), "%laneid": np.arange(WARP, dtype=np.uint64)}

    def steps(self) -> Iterator[str]:
        """Stops at each barrier of the block."""
        lines, at = self.block.lines, np.zeros(WARP, dtype=np.int64)
        while (here := int(at.min())) < len(lines):
            lanes = at == here
            at[lanes] += 1
            line = lines[here]
            if line.endswith(":") or line.startswith(SKIPPED):
                continue
            found = re.fullmatch(r"(?:@(!?)(\w+) )?(.*);", line)
            assert found, line
            negated, guard, line = found.groups()
            if guard:
                lanes &= self.registers[guard].astype(bool) != bool(negated)
            op, _, rest = line.partition(" ")
            if op == "bra":
                at[lanes] = self.block.labels[rest]
            elif op == "bar.sync":
                assert lanes.all()
                yield line
            elif lanes.any() or op.startswith("shfl"):
                self._do(op.split("."), _operands(rest), lanes)

    def _get(self, name: str) -> U64:
        if name.startswith("0f"):
            return _all(int(name[2:], 16))
        if name[0].isalpha():  # a register that was written under a guard alone may be anything
            return self.registers.get(name, _all(0))
        return self.registers[name] if name in self.registers else _all(int(name, 0) % 2**64)

    def _set(self, name: str, value: U64, lanes: NDArray[np.bool_], bits: int = 64) -> None:
        old = self.registers.get(name, _all(0))
        value = value & np.uint64(2**bits - 1)
        self.registers[name] = np.where(lanes, value.astype(np.uint64), old)

    def _do(self, op: list[str], operands: list[str], lanes: NDArray[np.bool_]) -> None:
        name = op[0]
        if name in ("ld", "st"):
            self._move(op, operands, lanes)
        elif name == "cp":
            assert lanes.any()
            to, start = self._address(operands[0]), self._address(operands[1])
            memory, shared = self.block.memory["global"], self.block.memory["shared"]
            for lane in np.flatnonzero(lanes):
                assert to[lane] % 16 == start[lane] % 16 == 0
                shared[to[lane] : to[lane] + 16] = memory[start[lane] : start[lane] + 16]
        elif name == "shfl":
            assert lanes.all(), "shfl in a branch"
            self._shuffle(op[2], operands, lanes)
        elif name == "mma":
            assert lanes.all(), "mma in a branch"
            self._mma(operands, "bf16" in op, lanes)
        else:
            inputs = [self._get(o) for o in operands[1:]]
            bits = 64 if "64" in op[-1] or "wide" in op else 32
            self._set(operands[0], _compute(op, inputs), lanes, bits)

    def _address(self, text: str) -> NDArray[np.int64]:
        base, _, offset = text.strip("[]").partition("+")
        return self._get(base).astype(np.int64) + int(offset or 0)

    def _move(self, op: list[str], operands: list[str], lanes: NDArray[np.bool_]) -> None:
        size = int(op[-1][1:]) // 8
        registers, address = operands if op[0] == "ld" else operands[::-1]
        names, start = registers.strip("{}").split(", "), self._address(address)
        memory = self.block.memory[op[1]]
        for lane in np.flatnonzero(lanes):
            assert start[lane] % (size * len(names)) == 0, (op, operands)
            assert 0 <= start[lane] <= len(memory) - size * len(names), (op, operands)
        for i, register in enumerate(names):
            places = np.where(lanes, start + size * i, 0)[:, None] + np.arange(size)
            if op[0] == "ld":
                word = memory[places].astype(np.uint64) << np.arange(size, dtype=np.uint64) * 8
                self._set(register, word.sum(axis=1, dtype=np.uint64), lanes)
            else:
                value = self._get(register)[:, None] >> np.arange(size, dtype=np.uint64) * 8
                memory[places[lanes]] = value[lanes].astype(np.uint8)

    def _shuffle(self, mode: str, operands: list[str], lanes: NDArray[np.bool_]) -> None:
        out, _, inside = operands[0].partition("|")
        lane, by = np.arange(WARP), self._get(operands[2]).astype(np.int64)
        source = lane - by if mode == "up" else by
        valid = source >= 0
        self._set(out, self._get(operands[1])[np.where(valid, source, lane)], lanes, 32)
        if inside:
            self._set(inside, valid.astype(np.uint64), lanes)

    def _mma(self, operands: list[str], bf16: bool, lanes: NDArray[np.bool_]) -> None:
        """D[16, 8] += A[16, 16] B[16, 8], as the PTX manual lays the fragments out."""
        out, a, b, c = (o.strip("{}").split(", ") for o in operands)
        g, t = np.arange(WARP) // 4, np.arange(WARP) % 4
        A, B, D = np.zeros((16, 16)), np.zeros((16, 8)), np.zeros((16, 8))
        for j in range(4):
            for half in range(2):
                value = _half(self._get(a[j]), half, bf16)
                A[g + 8 * (j % 2), 2 * t + 8 * (j // 2) + half] = value
                D[g + 8 * (j // 2), 2 * t + j % 2] = _f32(self._get(c[j]))
                if j < 2:
                    B[2 * t + 8 * j + half, g] = _half(self._get(b[j]), half, bf16)
        with np.errstate(all="ignore"):
            D = (D + A @ B).astype(np.float32)
        for j in range(4):
            self._set(out[j], _bits(D[g + 8 * (j // 2), 2 * t + j % 2]), lanes, 32)


def _compute(op: list[str], v: list[U64]) -> U64:
    name, kinds = op[0], op[1:]
    if name == "setp":
        a, b = (x.astype(np.uint32) for x in v[:2])
        if "s32" in kinds:
            a, b = a.view(np.int32), b.view(np.int32)  # type: ignore[assignment]
        compare = {"lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b, "eq": a == b, "ne": a != b}
        result = compare[kinds[0]]
        return (result & v[2].astype(bool) if "and" in kinds else result).astype(np.uint64)
    if name == "selp":
        return np.where(v[2].astype(bool), v[0], v[1])
    if name == "testp":
        return np.isfinite(_f32(v[0])).astype(np.uint64)
    if kinds[-1] == "f32" and name in ("add", "fma"):
        x = [_f32(i).astype(np.float64) for i in v]
        with np.errstate(all="ignore"):
            return _bits((x[0] + x[1] if name == "add" else x[0] * x[1] + x[2]).astype(np.float32))
    if name == "cvt":
        if kinds[0] == "f32":
            return _bits(_half(v[0], 0, False).astype(np.float32))
        return v[0] & M32 if kinds[-1] != "s32" else v[0].astype(np.int32).astype(np.uint64)
    if name in ("mad", "mul") and "wide" in kinds:
        v = [v[0] & M32, v[1] & M32, *v[2:]]
    match name:
        case "mov":
            return v[0]
        case "add":
            return v[0] + v[1]
        case "sub":
            return v[0] - v[1]
        case "mul":
            return v[0] * v[1]
        case "mad":
            return v[0] * v[1] + v[2]
        case "shl":
            return v[0] << v[1]
        case "shr":
            return v[0] >> v[1]
        case "and":
            return v[0] & v[1]
        case "popc":
            return np.array([int(x).bit_count() for x in v[0]], dtype=np.uint64)
        case "prmt":
            both = (v[0] & M32) | v[1] << np.uint64(32)
            nibbles = [v[2] >> np.uint64(4 * i) & np.uint64(7) for i in range(4)]
            picked = [
                (both >> n * np.uint64(8) & np.uint64(255)) << np.uint64(8 * i)
                for i, n in enumerate(nibbles)
            ]
            return picked[0] | picked[1] | picked[2] | picked[3]
        case "dp4a":
            a, b = (
                x[:, None] >> np.arange(0, 32, 8, dtype=np.uint64) & np.uint64(255) for x in v[:2]
            )
            return v[2] + (a * b).sum(axis=1, dtype=np.uint64)
    raise AssertionError(f"unknown instruction {'.'.join(op)}")


def _all(value: int) -> U64:
    return np.full(WARP, value, dtype=np.uint64)


def _f32(bits: U64) -> NDArray[np.float32]:
    return (bits & M32).astype(np.uint32).view(np.float32)


def _bits(value: NDArray[np.float32]) -> U64:
    return np.ascontiguousarray(value, dtype=np.float32).view(np.uint32).astype(np.uint64)


def _half(bits: U64, which: int, bf16: bool) -> NDArray[np.floating]:
    word = (bits >> np.uint64(16 * which)).astype(np.uint16)
    if bf16:
        return (word.astype(np.uint32) << 16).view(np.float32)
    return word.view(np.float16)


def _operands(text: str) -> list[str]:
    """Split at commas outside braces."""
    return [part.strip() for part in re.findall(r"\s*(\{[^}]*\}|\[[^\]]*\]|[^,]+)", text)]
