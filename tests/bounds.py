"""The error that a run of a model may have: float64 and a bound, carried node by node.

Every node's own rounding is at most ``G`` times the sum of the magnitudes it adds up, with
``G = gamma(longest sum + 16)``: the 16 cover bias, residual, the rounding of folded weights and
partial sums. Errors of the inputs pass through |W|, the slope of an activation, the pool. In 16-bit
types every node adds four roundings to that type: of its input, its weight, a stored product and
its result.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from sparse_triton.numerics import SMALLEST_SUBNORMAL, UNIT_ROUNDOFF, gamma

Tensor = torch.Tensor
Pair = tuple[Tensor, Tensor]  # value and error, float64
SLOPES = {"relu": 1.0, "gelu": 1.13, "silu": 1.1}
NAMES: dict[Any, str] = {
    nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu", F.relu: "relu", torch.relu: "relu",
    F.gelu: "gelu", F.silu: "silu", "relu": "relu", "relu_": "relu",
}  # fmt: skip


@torch.no_grad()
def bounded(model: nn.Module, *inputs: Tensor, dtype: str = "float32") -> Pair:
    """(y, largest legal error) of a dense model without masks, in eval mode, on the CPU."""
    pairs = ((x.double(), torch.zeros_like(x).double()) for x in inputs)
    return Bounded(model, dtype).run(*pairs)


def worst(Y: Tensor, expected: Pair) -> float:
    """Largest error over bound; right where it is at most 1."""
    y, e = expected
    Y = Y.detach().cpu()
    assert Y.shape == y.shape
    return float(((Y.double() - y).abs() / (e + 1e-300)).max()) if Y.numel() else 0.0


def layer_norm(x: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float) -> Pair:
    """A normalisation over x's last dimension, sums in float32 and in any order.

    With G = gamma(K + 4): the mean is off by G mean|x|, that shifts every difference d, their
    squares' mean v by e_v, and 1 / sqrt(v + eps) by what e_v moves it, rounded thrice. In 16-bit
    types the result is rounded once more.
    """
    d_type = str(x.dtype).removeprefix("torch.")
    u, G, x = 2.0**-24, float(gamma(x.shape[-1] + 4)), x.double()
    gain, bias = (None if t is None else t.double() for t in (gain, bias))
    d = x - x.mean(-1, keepdim=True)
    e_d = (1 + u) * G * x.abs().mean(-1, keepdim=True) + u * d.abs()
    v = d.square().mean(-1, keepdim=True)
    size = d.abs() + e_d
    e_v = (size.square() - d.square()).mean(-1, keepdim=True)
    e_v += G * size.square().mean(-1, keepdim=True) + u * (v + eps)
    r = (v + eps).rsqrt()
    r_most = (v + eps - e_v).rsqrt() * (1 + 3 * u)
    y, y_most = d * r, size * r_most
    if gain is not None:
        y, y_most = y * gain, y_most * gain.abs()
    shift = torch.zeros(()) if bias is None else bias
    e = y_most - y.abs() + float(gamma(4)) * (y_most + shift.abs())
    y = y + shift
    return y, e + (UNIT_ROUNDOFF[d_type] * (y.abs() + e) if d_type != "float32" else 0.0)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Pair:
    """Softmax-weighted sums of each head, products in three of TF32, shares by ``exp2``.

    A score is off by at most ``e``: its product, the scaling of its query by a rounded factor, and
    the roundings of ``exp2`` and its argument. That moves a share by a factor of at most exp(2 e);
    the products with v, and the fading of what was summed, add their own roundings.
    """
    keys, D = k.shape[-2:]
    q, k, v = (t.double() for t in (q, k, v))
    scores = scale * (q @ k.mT)
    e = gamma(5 * D + 13) * scale * (q.abs() @ k.abs().mT).amax(-1, keepdim=True)
    e = e + 2.0**-21 * (1.0 + scores.abs().amax(-1, keepdim=True))
    shares = torch.softmax(scores, -1)
    size = shares @ v.abs()
    return shares @ v, (torch.expm1(2 * e) + float(gamma(6 * keys + 32))) * size


class Bounded(fx.Interpreter):
    def __init__(self, model: nn.Module, dtype: str) -> None:
        super().__init__(fx.symbolic_trace(model))
        sums = [1, *(w[0].numel() for w in model.parameters() if w.ndim > 1)]
        self.G = float(gamma(max(sums) + 16))
        low = dtype != "float32"
        self.u = 4 * UNIT_ROUNDOFF[dtype] if low else 0.0
        self.tiny = 4 * SMALLEST_SUBNORMAL[dtype] if low else 0.0
        self.G += self.u

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "placeholder":
            return super().run_node(n)
        if n.op == "get_attr":
            return _exact(self.fetch_attr(str(n.target)))
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        match n.op:
            case "output":
                return args[0]
            case "call_module":
                v, e = self.call(self.fetch_attr(str(n.target)), *args)
            case _:
                v, e = self.function(n.target, args, kwargs)
        return v, e + self.u * (v.abs() + e) + self.tiny

    def call(self, m: Any, x: Pair) -> Pair:
        v, e = x
        match m:
            case nn.Linear() | nn.Conv2d():
                return self.product(m, v, e)
            case nn.BatchNorm2d():
                one = torch.ones_like(m.running_var) if m.weight is None else m.weight
                beta = torch.zeros_like(m.running_var) if m.bias is None else m.bias
                s = one.double() / (m.running_var.double() + m.eps).sqrt()
                t = beta.double() - m.running_mean.double() * s
                size = beta.double().abs() + (m.running_mean.double() * s).abs()
                s, t, size = (a[:, None, None] for a in (s, t, size))
                return v * s + t, e * s.abs() + self.G * ((v.abs() + e) * s.abs() + size)
            case nn.MaxPool2d():
                return m(v), m(e)
            case nn.AvgPool2d():
                return m(v), m(e) + self.G * m(v.abs() + e)
            case nn.Identity() | nn.Dropout():
                return x
            case nn.Sequential():
                for child in m:
                    x = self.call(child, x)
                return x
        return self.activation(NAMES[type(m)], v, e, getattr(m, "approximate", "none"))

    def product(self, m: Any, v: Tensor, e: Tensor) -> Pair:
        w, b = m.weight.detach().double(), m.bias
        b = torch.zeros(w.shape[0], dtype=torch.float64) if b is None else b.detach().double()

        def f(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
            if isinstance(m, nn.Linear):
                return F.linear(x, w, b)
            return F.conv2d(x, w, b, m.stride, m.padding, m.dilation, m.groups)

        size = f(v.abs() + e, w.abs(), b.abs())
        return f(v, w, b), f(e, w.abs(), None) + self.G * size

    def activation(self, name: str, v: Tensor, e: Tensor, how: str = "none") -> Pair:
        y = F.gelu(v, approximate=how) if name == "gelu" else getattr(F, name)(v)
        return y, SLOPES[name] * e + (name != "relu") * self.G * (v.abs() + e)

    def function(self, f: Any, args: Any, kwargs: Any) -> Any:
        if f in (operator.add, operator.iadd, torch.add, "add", "add_"):
            (a, ea), (b, eb) = (x if isinstance(x, tuple) else _exact(x) for x in args)
            alpha = kwargs.get("alpha", 1)
            size = a.abs() + ea + alpha * (b.abs() + eb)
            return a + alpha * b, ea + alpha * eb + self.G * size
        if f in (operator.mul, torch.mul):
            (a, ea), (b, eb) = args
            spread = a.abs() * eb + b.abs() * ea + ea * eb
            return a * b, spread + self.G * ((a * b).abs() + spread)
        v, e = args[0]
        if f in NAMES:
            how = kwargs.get("approximate", "none")
            return self.activation(NAMES[f], v, e, how)
        if f == "mean":
            return v.mean(*args[1:]), e.mean(*args[1:]) + self.G * (v.abs() + e).mean(*args[1:])
        if f in ("clone", "double"):
            return args[0]
        assert f in ("flatten", torch.flatten), f
        return v.flatten(*args[1:]), e.flatten(*args[1:])


def _exact(x: Tensor | float) -> Pair:
    v = torch.as_tensor(x, dtype=torch.float64)
    return v, torch.zeros_like(v)
