"""A thread of PTX, interpreted: enough of the language for what moves data, without a GPU.

There are no floats: additions of float32 registers add whole numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

MASK = (1 << 64) - 1


class Thread:
    """Registers and predicates of one thread; memories are byte arrays of their own spaces."""

    def __init__(self, registers: dict[str, int], memories: dict[str, np.ndarray]) -> None:
        self.registers, self.memories = dict(registers), memories

    def run(self, lines: list[str]) -> None:
        """From the first line to past the last; labels are lines that end in a colon."""
        lines = [line.replace("_${:uid}", "") for line in lines if line]
        labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
        tables = {}
        for line in lines:
            name, targets, listed = line.partition(": .branchtargets ")
            if targets:
                tables[name] = listed.rstrip(";").split(", ")
        at = 0
        while at < len(lines):
            line = lines[at]
            at += 1
            if line.endswith(":") or line.startswith(".") or ".branchtargets" in line:
                continue
            guard, line = re.fullmatch(r"(?:@(!?\w+) )?(.*);", line).groups()  # type: ignore[union-attr]
            if guard and not self._holds(guard):
                continue
            op, _, rest = line.partition(" ")
            if op in ("bra", "bra.uni"):
                at = labels[rest]
            elif op == "brx.idx":
                index, name = _operands(rest)
                at = labels[tables[name][self._value(index)]]
            else:
                self._do(op, _operands(rest))

    def _holds(self, guard: str) -> bool:
        value = bool(self.registers[guard.lstrip("!")])
        return value != guard.startswith("!")

    def _value(self, name: str) -> int:
        if name.startswith("0f"):  # a float32 immediate, as its bits
            return int(name[2:], 16)
        return self.registers[name] if name in self.registers else int(name, 0) & MASK

    def _do(self, op: str, operands: list[str]) -> None:
        name, *kinds = op.split(".")
        if name in ("ld", "st"):
            self._move(name, kinds, operands)
            return
        out, *inputs = operands
        values = [self._value(i) for i in inputs]
        if name == "setp":
            a, b = (_signed(v, 32) for v in values)
            self.registers[out] = {
                "ge": a >= b, "lt": a < b, "gt": a > b, "le": a <= b, "eq": a == b
            }[kinds[0]]  # fmt: skip
            return
        result = OPERATIONS[name](*values)
        wide = "64" in kinds[-1] or "wide" in kinds or kinds[-1] == "pred"
        self.registers[out] = result & (MASK if wide else 0xFFFFFFFF)

    def _move(self, name: str, kinds: list[str], operands: list[str]) -> None:
        space, kind = kinds[0], kinds[-1]
        size = int(kind[1:]) // 8
        registers, address = operands if name == "ld" else operands[::-1]
        base, _, offset = address.strip("[]").partition("+")
        at = self._value(base) + int(offset or 0)
        memory = self.memories[space]
        for i, register in enumerate(registers.strip("{}").split(", ")):
            place = at + size * i
            assert place % size == 0 and 0 <= place <= len(memory) - size, (name, space, place)
            if name == "ld":
                word = memory[place : place + size].tobytes()
                self.registers[register] = int.from_bytes(word, "little")
            else:
                word = (self._value(register) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
                memory[place : place + size] = np.frombuffer(word, dtype=np.uint8)


def _prmt(a: int, b: int, selector: int) -> int:
    both = (a & 0xFFFFFFFF) | (b & 0xFFFFFFFF) << 32
    picked = ((both >> 8 * (selector >> 4 * i & 7)) & 0xFF for i in range(4))
    return sum(byte << 8 * i for i, byte in enumerate(picked))


OPERATIONS: dict[str, Callable[..., int]] = {
    "mov": lambda a: a,
    "cvt": lambda a: a,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "min": min,
    "mul": lambda a, b: a * b,
    "mad": lambda a, b, c: a * b + c,
    "shl": lambda a, b: a << b,
    "shr": lambda a, b: a >> b,
    "and": lambda a, b: a & b,
    "prmt": _prmt,
    "dp2a": lambda a, b, c: c + sum((a >> 16 * i & 0xFFFF) * (b >> 8 * i & 255) for i in range(2)),
    "dp4a": lambda a, b, c: c + sum((a >> 8 * i & 255) * (b >> 8 * i & 255) for i in range(4)),
}


def _operands(text: str) -> list[str]:
    """Split at commas outside braces."""
    return [part.strip() for part in re.findall(r"\s*(\{[^}]*\}|\[[^\]]*\]|[^,]+)", text)]


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
