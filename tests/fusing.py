"""Helpers of the tests of `lora fuse`: rounding written from the definition of
the number types, adapters and bases of random numbers, and the interval that a
fused number must lie in.

What is fused is W' = W + sum of m dW, summed in float32 and rounded once to the
type of the tensor. With u = 2^-24, and S the sum of the absolute values of the
terms of dW times its scale, a sum of r products (one rounding each), the
product with the scale (its own rounding included) and the addition to the
tensor are off by at most

    e = u ((r + 4) S + |W| + S)   an adapter,

to first order. Rounding is monotonic, so that the result lies between the
roundings of W' - e and W' + e: it is the nearest number to W' unless a tie is
within e of it, which happens to a share of 2 e / (distance of two numbers).
"""

import copy
import shutil

import numpy as np

import support
from support import OK, equal, require

UNIT = 2.0**-24

# bits of the mantissa with the leading one, least exponent, largest number
FLOATS = {"F32": (24, -126, float(np.finfo("f4").max)),
          "F16": (11, -14, 65504.0),
          "BF16": (8, -126, float.fromhex("0x1.fep127")),
          "F8_E4M3": (4, -6, 448.0), "F8_E5M2": (3, -14, 57344.0)}


def spacing(values, dtype):
    """Of the numbers of a type around values of float64."""
    bits, least, _ = FLOATS[dtype]
    _, exponent = np.frexp(np.abs(values))
    return np.ldexp(1.0, np.maximum(exponent - 1, least) - (bits - 1))


def nearest(values, dtype, how=np.rint):
    """float64 rounded once to a type, ties to even; what is too large becomes
    an infinity. `how` np.floor or np.ceil: the neighbour on that side."""
    if dtype == "F64":
        return np.asarray(values, np.float64)
    unit = spacing(values, dtype)
    rounded = how(values / unit) * unit
    largest = FLOATS[dtype][2]
    return np.where(np.abs(rounded) > largest,
                    np.copysign(np.inf, values), rounded)


def stored(values, dtype):
    """A Tensor of numbers that are rounded to any type; infinities only where
    the type has them."""
    values = np.asarray(values, np.float64)
    if not dtype.startswith("F8"):
        if dtype == "F64":
            return support.tensor(values, dtype)
        return support.tensor(nearest(values, dtype), dtype)
    table = support.E4M3 if dtype == "F8_E4M3" else support.E5M2
    rounded = nearest(values, dtype).reshape(-1)
    half = table[:128]
    codes = np.searchsorted(half[~np.isnan(half)], np.abs(rounded))
    codes = codes + 128 * np.signbit(rounded)
    require(np.array_equal(table[codes], rounded, equal_nan=True),
            "8-bit floats")
    return support.Tensor(dtype, values.shape, codes.astype("u1").tobytes())


def remove(path):
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def fuse(suite, base, adapters, *more, code=OK, out="fused.safetensors",
         **how):
    """Run `lora fuse`, to a path that is not there yet; the path, or what the
    program said if it is to fail, and then nothing may be left."""
    out = suite.path(out)
    remove(out)
    before = sorted(out.parent.iterdir())
    run = suite.run("fuse", base, *adapters, "-o", out, *more, code=code, **how)
    if code != OK:
        equal(sorted(out.parent.iterdir()), before, "files that were left")
        return run.err
    return out


def numbers(path):
    return {name: t.array() for name, t in support.read_file(path)[0].items()}


def allowed(want, error, dtype):
    """The least and the greatest number that a result may be."""
    with np.errstate(over="ignore"):
        return nearest(want - error, dtype), nearest(want + error, dtype)


def check(got, want, error, what):
    """A fused tensor against W' in float64. Returns how many of its numbers are
    not the nearest to W'."""
    equal(got.shape, want.shape, f"{what}: shape")
    low, high = allowed(want, error, got.dtype)
    values = got.array()
    wrong = ~((low <= values) & (values <= high))
    if wrong.any():
        at = np.unravel_index(np.argmax(wrong), want.shape)
        raise AssertionError(
            f"{what} in {got.dtype}: {int(wrong.sum())} of {want.size} wrong, "
            f"at {tuple(map(int, at))} got {values[at]!r}, expected "
            f"{want[at]!r} within {np.broadcast_to(error, want.shape)[at]:g}")
    return int(np.sum(values != nearest(want, got.dtype)))


def require_same(new, old, changed, what):
    """All tensors but `changed` have their bytes, and all their places."""
    (a, start_a), (b, start_b) = map(support.read_header, (new, old))
    equal(list(a), list(b), f"{what}: order of the header")
    equal(a, b, f"{what}: header")
    (mine, _), (theirs, _) = map(support.read_file, (new, old))
    for name in theirs:
        if name not in changed:
            require(mine[name].same(theirs[name]), f"{what}: {name} changed")


class Module:
    """A LoRA module of random numbers: dW, and what float32 makes of it."""

    def __init__(self, rng, shape, rank=4, size=0.05, alpha=None):
        rows, columns = shape[0], int(np.prod(shape[1:]))
        self.shape, self.rank = tuple(shape), rank
        self.alpha = float(rank if alpha is None else alpha)
        self.down = rng.standard_normal((rank, columns)).astype("f4")
        self.up = (size * rng.standard_normal((rows, rank))).astype("f4")
        self.origin = self  # whom it is a part of
        self.fill()

    def fill(self):
        scale = self.alpha / self.rank
        change, size = support.lora_delta(
            self.down.astype(np.float64), self.up.astype(np.float64), None,
            scale)
        self.change = change.reshape(self.shape)
        self.size = size.reshape(self.shape)

    def like(self, shape, down, up):
        """Another of the same origin."""
        other = copy.copy(self)
        other.shape, other.down, other.up = shape, down, up
        other.fill()
        return other

    def part(self, rows):
        """Of some rows of the weight, in another order maybe."""
        return self.like((len(rows), *self.shape[1:]), self.down,
                         self.up[rows])

    def transposed(self):
        return self.like(self.shape[::-1], self.up.T.copy(),
                         self.down.T.copy())

    def tensors(self, name, style="kohya"):
        rows, kernel = self.shape[0], self.shape[2:]
        ones = (1,) * len(kernel)
        down = support.tensor(
            self.down.reshape((self.rank, *self.shape[1:])))
        up = support.tensor(self.up.reshape((rows, self.rank, *ones)))
        if style == "kohya":
            return {name + ".lora_down.weight": down,
                    name + ".lora_up.weight": up,
                    name + ".alpha": support.tensor(np.float64(self.alpha))}
        equal(self.alpha, self.rank, "alpha of a pair that has none")
        return {name + ".lora_A.weight": down, name + ".lora_B.weight": up}


def fused(weight, *changes):
    """(W', its error) of pairs (Module, strength), in their order."""
    want, room, total = weight, 0.0, np.abs(weight)
    for module, strength in changes:
        size = abs(strength) * module.size
        want = want + strength * module.change
        total = total + size
        room = room + (module.rank + 4) * size + total
    return want, 1.001 * UNIT * room


def write_adapter(path, modules, style="kohya", metadata=None):
    """modules: {name: Module}"""
    tensors = {}
    for name, module in modules.items():
        tensors.update(module.tensors(name, style))
    support.write_file(path, tensors, metadata)
    return path
