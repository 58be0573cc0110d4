"""What machine code of sm_90 says about products in flight."""

from __future__ import annotations

import re


def written_while_read(code: str) -> list[str]:
    """Instructions of the loop that write a register which products in flight read: nothing guards
    the values and selectors of a product until a wait has ended its group."""
    read, flying, found = set[int](), list[set[int]](), []
    for line in 2 * loop_of(code):
        product = re.match(r"HGMMA\S+ R\d+, R(\d+), gdesc\[\w+\], R\d+(?:, R(\d+))?", line)
        wait = re.match(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x(\d)", line)
        if product:
            read |= {int(product[1]) + i for i in range(4)}
            read |= {int(product[2])} if product[2] else set()
            if "gsb0" in line:
                flying.append(read)
                read = set()
        elif wait:
            flying = flying[len(flying) - int(wait[1]) :] if int(wait[1]) else []
        elif written(line) & read.union(*flying):
            found.append(line)
    return found


def loop_of(code: str) -> list[str]:
    """The instructions between the label that the first branch after the products goes to and it,
    without predicates."""
    lines = re.findall(
        r"^(?:(\.L_x_\d+):|\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d\s+)?(.*?) ?;)", code, re.M
    )
    last = max(i for i, (_, text) in enumerate(lines) if text.startswith("HGMMA"))
    back = next(i for i in range(last, len(lines)) if lines[i][1].startswith("BRA"))
    label = re.search(r"\.L_x_\d+", lines[back][1])
    assert label is not None
    top = [name for name, _ in lines].index(label[0])
    return [text for _, text in lines[top:back]]


def written(line: str) -> set[int]:
    """Registers that an instruction writes."""
    out = re.match(r"(?!ST|RED)(\S+) (?:P\d, )?R(\d+)\b", line)
    if out is None:
        return set()
    wide = 4 if ".128" in out[1] else 2 if ".64" in out[1] or ".WIDE" in out[1] else 1
    return {int(out[2]) + i for i in range(wide)}
