"""Layers of every kind against numpy float64: what comes out, by the formula of
the weight change; and gradients by finite differences of that.

The loss is the sum of y * g. It is linear in x and in each factor, so that a
central difference with a step of 1 is exact but for float64's own rounding.

f32 makes an error of at most 512 2^-24 of the sum of the products' magnitudes
in each of up to five products (longer sums are cut); with roundings of random
sign sqrt(512) 2^-24 = 1.4e-6, twice that is 4 sigma or more. The magnitudes are
those of the same formula over absolute values.
"""

import ctypes
import itertools
import math
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "bindings"),
                str(HERE.parent / "golden")]
import bindinglib  # noqa: E402
import support  # noqa: E402
import test_gguf  # noqa: E402
from support import equal, require  # noqa: E402

NAME = "lora_unet_some_layer"
NOISE = 2 * math.sqrt(512) * 2.0**-24
HALF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}

# Weight changes in float64, [out, in, kernel...], before the scale ----------


def cored(t, a, b):
    """sum of t[i, j, x] a[i, p] b[j, q]"""
    return np.einsum("ij...,ip,jq->pq...", t, a, b)


def lora(f, kernel):
    if "mid" in f:
        return cored(f["mid"], f["up"].reshape(len(f["up"]), -1).T,
                     f["down"].reshape(len(f["down"]), -1))
    up, down = (f[k].reshape(len(f[k]), -1) for k in ("up", "down"))
    return (up @ down).reshape(len(up), -1, *kernel)


def light(f, kernel):
    middle = f["down_up"] if "down_up" in f else f["up"] @ f["down"]
    return (f["up_aux"] @ middle @ f["down_aux"]).reshape(
        len(f["up_aux"]), -1, *kernel)


def loha(f, kernel):
    def one(n):
        a, b = f[f"w{n}_a"], f[f"w{n}_b"]
        if f"t{n}" in f:
            return cored(f[f"t{n}"], a, b)
        return (a @ b).reshape(len(a), -1, *kernel)
    return one(1) * one(2)


def lokr(f, kernel):
    one = f["w1"] if "w1" in f else f["w1_a"] @ f["w1_b"]
    if "w2" in f:
        two = f["w2"].reshape(len(f["w2"]), -1, *kernel)
    elif "t2" in f:
        two = cored(f["t2"], f["w2_a"], f["w2_b"])
    else:
        two = (f["w2_a"] @ f["w2_b"]).reshape(len(f["w2_a"]), -1, *kernel)
    whole = np.einsum("ac,bd...->abcd...", one, two)
    return whole.reshape(one.shape[0] * two.shape[0],
                         one.shape[1] * two.shape[1], *kernel)


def full(f, kernel):
    return f["diff"].reshape(len(f["diff"]), -1, *kernel)


KINDS = {lora: {"up": ".lora_up.weight", "down": ".lora_down.weight",
                "mid": ".lora_mid.weight"},
         light: {"up": ".light_up", "down": ".light_down",
                 "up_aux": ".light_up_aux", "down_aux": ".light_down_aux"},
         loha: {k: f".hada_{k}" for k in
                ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
         lokr: {k: f".lokr_{k}" for k in
                ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
         full: {"diff": ".diff"}}


def pair(out, into, rank, kernel=(), core=False):
    ones = (1,) * len(kernel)
    if core:
        return {"up": (out, rank, *ones), "mid": (rank, rank + 1, *kernel),
                "down": (rank + 1, into, *ones)}
    return {"up": (out, rank, *ones), "down": (rank, into, *kernel)}


def hada(out, cols, rank, second=None):
    second = second or rank
    return {"w1_a": (out, rank), "w1_b": (rank, cols), "w2_a": (out, second),
            "w2_b": (second, cols)}


# (title, kind, factors, kernel, batch and sizes, options)
CASES = [
    ("one row, rank 1", lora, pair(5, 7, 1), (), (1,), {}),
    ("rows over a block", lora, pair(30, 20, 4), (), (130,), {}),
    ("many inputs", lora, pair(24, 1300, 16), (), (67,), {}),
    ("many outputs", lora, pair(1100, 40, 33), (), (65,), {}),
    ("a high rank", lora, pair(70, 600, 150), (), (9,), {}),
    ("a rank over a piece", lora, pair(130, 140, 530), (), (3,), {}),
    ("many rows", lora, pair(18, 25, 3), (), (1100,), {}),
    ("few rows, in pieces", lora, pair(1100, 1300, 40), (), (70,), {}),
    ("two rows, rank 60", lora, pair(90, 150, 60), (), (2,), {}),
    ("five rows, rank 60", lora, pair(90, 150, 60), (), (5,), {}),
    ("3x3", lora, pair(9, 6, 4, (3, 3)), (3, 3), (2, 7, 9), {"padding": 1}),
    ("3x3, nothing outside", lora, pair(9, 6, 4, (3, 3)), (3, 3), (2, 3, 4),
     {}),
    ("3x3, stride 2, dilation 2", lora, pair(5, 8, 3, (3, 3)), (3, 3),
     (2, 11, 12), {"stride": 2, "padding": 2, "dilation": 2}),
    ("5x1, all uneven", lora, pair(7, 5, 2, (5, 1)), (5, 1), (3, 13, 4),
     {"stride": (3, 2), "padding": (4, 1), "dilation": (1, 3)}),
    ("padding beyond the image", lora, pair(4, 3, 2, (3, 3)), (3, 3),
     (1, 1, 2), {"padding": 3}),
    ("4x4 by 4", lora, pair(6, 3, 2, (4, 4)), (4, 4), (2, 16, 8),
     {"stride": 4}),
    ("1x1, stride 2", lora, pair(6, 9, 3, (1, 1)), (1, 1), (2, 5, 6),
     {"stride": 2}),
    ("1x1", lora, pair(80, 70, 3, (1, 1)), (1, 1), (2, 15, 21), {}),
    ("many channels", lora, pair(70, 130, 6, (3, 3)), (3, 3), (1, 15, 17),
     {"padding": 1}),
    ("one dimension", lora, pair(6, 4, 3, (5,)), (5,), (3, 20),
     {"padding": 2, "stride": 2}),
    ("three dimensions", lora, pair(4, 3, 2, (2, 3, 3)), (2, 3, 3),
     (2, 5, 6, 7), {"padding": (0, 1, 1), "stride": (2, 1, 2)}),
    ("a core", lora, pair(9, 6, 3, (3, 3), True), (3, 3), (2, 6, 7),
     {"padding": 1, "stride": 2}),
    ("groups", lora, pair(12, 5, 4, (3, 3)), (3, 3), (2, 6, 5),
     {"padding": 1, "groups": 3}),
    ("groups and a core", lora, pair(6, 4, 3, (3, 3), True), (3, 3), (1, 5, 5),
     {"groups": 2}),
    ("Light-LoRA", light, {"up_aux": (40, 6), "up": (6, 2), "down": (2, 9),
                           "down_aux": (9, 30)}, (), (20,), {}),
    ("LoHa, a pair", loha, hada(60, 50, 3, 2), (), (21,), {}),
    ("LoHa, whole", loha, hada(130, 70, 9, 8), (), (21,), {}),
    ("LoHa 3x3", loha, hada(8, 5 * 9, 3), (3, 3), (2, 5, 6),
     {"padding": 1, "kernel": 3}),
    ("LoHa 3x3, a pair", loha, hada(20, 6 * 9, 2), (3, 3), (2, 5, 6),
     {"padding": 1, "kernel": (3, 3), "stride": 2}),
    ("LoHa with cores", loha,
     {"w1_a": (3, 8), "w1_b": (3, 5), "t1": (3, 3, 3, 3), "w2_a": (2, 8),
      "w2_b": (2, 5), "t2": (2, 2, 3, 3)}, (3, 3), (2, 5, 6), {"padding": 1}),
    ("LoHa with cores, a pair", loha,
     {"w1_a": (2, 40), "w1_b": (2, 9), "t1": (2, 2, 3, 3), "w2_a": (2, 40),
      "w2_b": (2, 9), "t2": (2, 2, 3, 3)}, (3, 3), (1, 5, 6), {"padding": 1}),
    ("LoHa with groups", loha, hada(8, 5 * 9, 3), (3, 3), (2, 5, 6),
     {"padding": 1, "kernel": 3, "groups": 4}),
    ("LoKr", lokr, {"w1": (4, 3), "w2": (7, 9)}, (), (70,), {}),
    ("LoKr of pairs", lokr, {"w1_a": (4, 2), "w1_b": (2, 6), "w2_a": (9, 3),
                             "w2_b": (3, 8)}, (), (11,), {}),
    ("LoKr, w1 large", lokr, {"w1": (90, 80), "w2_a": (6, 2),
                              "w2_b": (2, 5)}, (), (5,), {}),
    ("LoKr 3x3", lokr, {"w1": (3, 2), "w2": (5, 4, 3, 3)}, (3, 3), (2, 6, 5),
     {"padding": 1}),
    ("LoKr 3x3 of pairs", lokr,
     {"w1_a": (3, 1), "w1_b": (1, 2), "w2_a": (5, 2), "w2_b": (2, 4 * 9)},
     (3, 3), (2, 6, 5), {"padding": 1, "stride": 2, "kernel": 3}),
    ("LoKr with a core", lokr, {"w1": (3, 2), "w2_a": (2, 5), "w2_b": (2, 4),
                                "t2": (2, 2, 3, 3)}, (3, 3), (2, 6, 5),
     {"padding": 1}),
    ("LoKr, groups of blocks", lokr, {"w1": (4, 3), "w2": (5, 2, 3, 3)},
     (3, 3), (2, 5, 6), {"padding": 1, "groups": 2}),
    ("LoKr of pairs, a group a block", lokr,
     {"w1_a": (4, 2), "w1_b": (2, 3), "w2_a": (5, 2), "w2_b": (2, 3 * 9)},
     (3, 3), (2, 5, 6), {"padding": 1, "groups": 4, "kernel": 3}),
    ("LoKr with a core, groups within w2", lokr,
     {"w1": (2, 2), "w2_a": (2, 6), "w2_b": (2, 3), "t2": (2, 2, 3, 3)},
     (3, 3), (1, 5, 6), {"groups": 6, "stride": 2}),
    ("LoKr of pairs, groups within w2", lokr,
     {"w1_a": (3, 2), "w1_b": (2, 2), "w2_a": (8, 2), "w2_b": (2, 3 * 9)},
     (3, 3), (2, 5, 6), {"padding": 1, "groups": 12, "kernel": 3}),
    ("LoKr, each channel a group", lokr, {"w1": (4, 1), "w2": (6, 1, 3, 3)},
     (3, 3), (2, 7, 6), {"padding": 1, "groups": 24}),
    ("full", full, {"diff": (12, 9)}, (), (10,), {}),
    ("3x3, dilation 2", lora, pair(5, 8, 3, (3, 3)), (3, 3), (2, 9, 8),
     {"padding": 1, "dilation": 2}),
    ("3x3, many positions", lora, pair(3, 5, 2, (3, 3)), (3, 3), (1, 31, 40),
     {"padding": (1, 2)}),
    ("3x3, a rank over a block", lora, pair(7, 90, 70, (3, 3)), (3, 3),
     (1, 6, 7), {"padding": 1}),
    ("three dimensions, by one", lora, pair(4, 6, 2, (2, 3, 3)), (2, 3, 3),
     (2, 4, 5, 6), {"padding": (1, 1, 0)}),
    ("full 3x3, few outputs", full, {"diff": (3, 5, 3, 3)}, (3, 3), (2, 6, 5),
     {"padding": 2}),
    ("full 3x3, groups", full, {"diff": (6, 4, 3, 3)}, (3, 3), (2, 5, 5),
     {"groups": 2, "padding": 1}),
]


def triple(value, dims):
    return (value,) * dims if isinstance(value, int) else tuple(value)


def convolve(weight, x, how):
    """The layer's product in float64: a sum over elements of the kernel."""
    kernel = weight.shape[2:]
    if not kernel:
        return x @ weight.T
    dims = len(kernel)
    stride, padding, dilation = (
        triple(how.get(k, d), dims) for k, d in
        (("stride", 1), ("padding", 0), ("dilation", 1)))
    groups = how.get("groups", 1)
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    sizes = [(x.shape[2 + d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d]
             + 1 for d in range(dims)]
    parts = []
    for w, part in zip(np.split(weight, groups), np.split(x, groups, axis=1)):
        y = 0.0
        for element in itertools.product(*map(range, kernel)):
            window = part[(slice(None), slice(None), *(
                slice(e * l, e * l + s * (n - 1) + 1, s) for e, l, s, n in
                zip(element, dilation, stride, sizes)))]
            y = y + np.einsum("oc,bc...->bo...",
                              w[(slice(None), slice(None), *element)], window)
        parts.append(y)
    return np.concatenate(parts, axis=1)


class Reference:
    """The formula in float64, and what its magnitudes are."""

    def __init__(self, kind, factors, kernel, how, scale):
        self.kind, self.factors, self.kernel = kind, factors, kernel
        self.how, self.scale = how, scale

    def run(self, x, **changed):
        factors = {**self.factors, **changed}
        return self.scale * convolve(self.kind(factors, self.kernel), x,
                                     self.how)

    def sizes(self):
        return Reference(self.kind, {k: np.abs(v) for k, v in
                                     self.factors.items()},
                         self.kernel, self.how, abs(self.scale))

    def gradient(self, name, x, g, indices):
        """Of sum(y * g), by differences, at some elements."""
        of = x if name == "x" else self.factors[name]
        found = []
        for i in indices:
            step = np.zeros(of.size)
            step[i] = 1.0
            step = step.reshape(of.shape)
            y = [self.run(x + d * step) if name == "x" else
                 self.run(x, **{name: of + d * step}) for d in (1, -1)]
            found.append(np.sum((y[0] - y[1]) * g) / 2)
        return np.array(found)


def make(liblora, seed, case, scale_of=1.0, context=None):
    """(layer's adapter, reference, x, g)"""
    _, kind, shapes, kernel, batch, how = case
    rng = np.random.default_rng(seed)
    factors = {k: rng.standard_normal(s).astype(np.float32)
               for k, s in shapes.items()}
    builder = liblora.Builder(context=context)
    for name, values in factors.items():
        builder.add(NAME + KINDS[kind][name], values)
    bare = kind is full or (kind is lokr and "w2" in shapes and "w1" in shapes)
    if not bare:
        builder.add(NAME + ".alpha", np.float32(3.0))
    rank = {"lora": lambda: shapes["down"][0], "light": lambda:
            shapes["down"][0], "loha": lambda: shapes["w1_b"][0],
            "lokr": lambda: shapes.get("w2_b", shapes.get("w1_b"))[0],
            "full": lambda: 1}[kind.__name__] if not bare else (lambda: 1)
    scale = scale_of * (1.0 if bare else 3.0 / rank())
    wide = {k: v.astype(np.float64) for k, v in factors.items()}
    reference = Reference(kind, wide, kernel, how, scale)
    width = kind(wide, kernel).shape[1] * how.get("groups", 1)
    x = rng.standard_normal((batch[0], width, *batch[1:])).astype(np.float32)
    g = rng.standard_normal(reference.run(x.astype(np.float64)).shape)
    return builder.finish(), reference, x, g.astype(np.float32)


def roles(kind, layer):
    """{role: name of the factor here}"""
    suffixes = {NAME + suffix: k for k, suffix in KINDS[kind].items()}
    return {role: suffixes[name] for role, name in layer.factors.items()}


def layer_of(adapter, case, strength=1.0, **more):
    return adapter.layer(NAME, strength, **case[5], **more)


def test_forward(liblora, seed, case):
    adapter, reference, x, _ = make(liblora, seed, case, -0.7)
    layer = layer_of(adapter, case, -0.7)
    want = reference.run(x.astype(np.float64))
    got = layer.forward(x)
    equal(got.shape, want.shape, "shape")
    support.close(got, want, NOISE * reference.sizes().run(np.abs(x)), "y")
    # What the interface promises, of the numbers as a whole.
    apart = np.linalg.norm(got - want)
    require(apart <= 1e-6 * np.linalg.norm(want), f"{apart} apart")


def test_backward(liblora, seed, case):
    adapter, reference, x, g = make(liblora, seed, case)
    layer = layer_of(adapter, case)
    x64, g64 = x.astype(np.float64), g.astype(np.float64)
    sizes = reference.sizes()
    got = layer.backward(x, g)
    found = {"x": got.x}
    for role, name in roles(case[1], layer).items():
        if role in got.factors:
            found[name] = got.factors[role]
    frozen = {"up_aux", "down_aux"} if case[1] is light else set()
    equal(set(found), {"x", *reference.factors} - frozen, "gradients")
    rng = np.random.default_rng(seed)
    for name, value in found.items():
        indices = np.unique(np.concatenate([
            [0, value.size - 1], rng.integers(0, value.size, 40)]))
        want = reference.gradient(name, x64, g64, indices)
        room = sizes.gradient(name, np.abs(x64), np.abs(g64), indices)
        support.close(value.ravel()[indices], want,
                      NOISE * room + 1e-12 * np.abs(room).max(),
                      f"gradient of {name}")


def test_sums(liblora, seed, case):
    """All elements of the gradients, at once: y is linear in x and in each
    factor, so each gives sum(y * g) with its gradient."""
    adapter, reference, x, g = make(liblora, seed, case)
    layer = layer_of(adapter, case)
    got = layer.backward(x, g)
    y = reference.run(x.astype(np.float64))
    want = np.sum(y * g)
    room = NOISE * np.sum(reference.sizes().run(np.abs(x)) * np.abs(g))
    support.close(np.sum(got.x.astype(np.float64) * x), want, room, "x")
    for role, name in roles(case[1], layer).items():
        if role in got.factors:
            support.close(np.sum(got.factors[role].astype(np.float64) *
                                 reference.factors[name]), want, room, role)


class Halves:
    """Numbers of 16 bits: numpy has f16; of bf16 it has the bits only."""

    def __init__(self, liblora, dtype):
        self.wide = dtype == "float16"
        self.ffi, self.lib = liblora._ffi, liblora._library.lib

    def bits(self, values):
        if self.wide:
            return values.astype(np.float16).view(np.uint16)
        return support.round_bf16(values).reshape(values.shape)

    def numbers(self, bits):
        if self.wide:
            return bits.view(np.float16).astype(np.float64)
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(float)

    def forward(self, layer, batch, x, y, flags):
        room = layer._room(batch, False)
        layer._context.call(
            self.lib.lora_layer_forward, y.ctypes.data, 0, layer._handle,
            x.ctypes.data, 0, batch, flags, room.address, room.bytes)

    def backward(self, layer, batch, x, g, shapes):
        """(gradient of x, {role: gradient})"""
        room = layer._room(batch, True)
        pointer = ctypes.POINTER(ctypes.c_float)
        made = {role: np.empty(shape, np.float32)
                for role, shape in shapes.items()}
        places = (pointer * len(layer.factors))(*(
            made[role].ctypes.data_as(pointer) if role in made else None
            for role in layer.factors))
        out = np.empty(x.shape, np.uint16)
        layer._context.call(
            self.lib.lora_layer_backward, out.ctypes.data, 0, places,
            layer._handle, x.ctypes.data, 0, g.ctypes.data, 0, batch, 0,
            room.address, room.bytes)
        return out, made


def test_half(liblora, seed, case, dtype):
    """f16 and bf16 go in and out, with f32 between: one more rounding."""
    half = Halves(liblora, dtype)
    adapter, reference, x, g = make(liblora, seed, case, 0.25)
    layer = layer_of(adapter, case, 0.25, dtype=dtype)
    plain = layer_of(adapter, case, 0.25)
    batch, shape = plain._batch(liblora._arrays.borrow(x))
    x, g = half.bits(x), half.bits(g)
    x64, g64 = half.numbers(x), half.numbers(g)
    want = reference.run(x64)
    unit, tiny = HALF[dtype], 2.0**-24
    noise = NOISE * reference.sizes().run(np.abs(x64))
    y = np.empty(shape, np.uint16)
    half.forward(layer, batch, x, y, 0)
    support.close(half.numbers(y), want,
                  noise + unit * (np.abs(want) + noise) + tiny, "y")
    y = half.bits(np.full(shape, 0.5))
    half.forward(layer, batch, x, y, liblora._ffi.LORA_LAYER_ADD)
    support.close(half.numbers(y), want + 0.5,
                  noise + unit * (np.abs(want + 0.5) + noise) + tiny, "added")
    # Those of factors are f32 all through.
    same = plain.backward(x64.astype(np.float32), g64.astype(np.float32))
    back, made = half.backward(layer, batch, x, g, {
        role: value.shape for role, value in same.factors.items()})
    for role, value in made.items():
        equal(value.tobytes(), same.factors[role].tobytes(), role)
    indices = np.arange(0, x.size, max(x.size // 20, 1))
    want = reference.gradient("x", x64, g64, indices)
    noise = NOISE * reference.sizes().gradient("x", np.abs(x64), np.abs(g64),
                                               indices)
    support.close(half.numbers(back).ravel()[indices], want,
                  noise + unit * (np.abs(want) + noise) + tiny, "gradient of x")


def test_threads(liblora, seed, case):
    """The same bits for any number of threads."""
    results = []
    for threads in (1, 2, 5):
        context = liblora.Context(threads=threads)
        adapter, _, x, g = make(liblora, seed, case, context=context)
        layer = layer_of(adapter, case)
        back = layer.backward(x, g)
        results.append([layer.forward(x).tobytes(), back.x.tobytes(),
                        *(v.tobytes() for v in back.factors.values())])
    for other in results[1:]:
        equal(other, results[0], "bits")


def test_steps(liblora, seed, case):
    """Rows and images with something between them, and gradients that are
    added: what lies between is left alone."""
    ffi, lib = liblora._ffi, liblora._library.lib
    adapter, _, x, g = make(liblora, seed, case)
    layer = layer_of(adapter, case)
    plain, back = layer.forward(x), layer.backward(x, g)
    count = len(x)
    x_size, y_size = x.size // count, g.size // count
    batch, _ = layer._batch(liblora._arrays.borrow(x))

    def spread(values, size, more):
        wide = np.full((count, size + more), 77.0, np.float32)
        wide[:, :size] = values.reshape(count, size)
        return wide

    xs, gs = spread(x, x_size, 3), spread(g, y_size, 5)
    ys = spread(np.zeros(g.size, np.float32), y_size, 1)
    room = layer._room(batch, True)
    call = adapter.context.call
    call(lib.lora_layer_forward, ys.ctypes.data, y_size + 1, layer._handle,
         xs.ctypes.data, x_size + 3, batch, 0, room.address, room.bytes)
    equal(ys[:, :y_size].tobytes(), plain.tobytes(), "y")
    equal(set(ys[:, y_size:].ravel()), {77.0}, "between y")
    grad_x = spread(np.ones(x.size, np.float32), x_size, 2)
    made = {role: np.ones(v.shape, np.float32)
            for role, v in back.factors.items()}
    float_p = ctypes.POINTER(ctypes.c_float)
    places = (float_p * len(layer.factors))(*(
        made[role].ctypes.data_as(float_p) if role in made else None
        for role in layer.factors))
    call(lib.lora_layer_backward, grad_x.ctypes.data, x_size + 2, places,
         layer._handle, xs.ctypes.data, x_size + 3, gs.ctypes.data, y_size + 5,
         batch, ffi.LORA_LAYER_ADD | ffi.LORA_LAYER_ADD_FACTORS,
         room.address, room.bytes)
    # Blocks of rows may be cut elsewhere: sums of f32 differ in their last
    # bits, by the noise of what is summed.
    for what, one, other in (
            ("x", grad_x[:, :x_size].ravel(), back.x.ravel()),
            *((role, v.ravel(), back.factors[role].ravel())
              for role, v in made.items())):
        room_for = 1e-5 * (1 + np.abs(other) + np.abs(other).max())
        support.close(one, other + 1.0, room_for, f"gradient of {what}, added")
    equal(set(grad_x[:, x_size:].ravel()), {77.0}, "between gradients")


def test_set(liblora, seed, case):
    """Other numbers in a factor: as a layer made of those."""
    adapter, _, x, g = make(liblora, seed, case)
    other, _, _, _ = make(liblora, seed + 1, case)
    layer, fresh = layer_of(adapter, case), layer_of(other, case)
    layer.set_factors({role: other.tensor(name)
                       for role, name in layer.factors.items()})
    equal(layer.forward(x).tobytes(), fresh.forward(x).tobytes(), "y")
    equal(layer.backward(x, g).x.tobytes(), fresh.backward(x, g).x.tobytes(),
          "gradient")


def test_bias(liblora):
    """A change of the bias is part of y."""
    rng = np.random.default_rng(5)
    up, down, bias = (rng.standard_normal(s).astype(np.float32)
                      for s in ((6, 2, 1, 1), (2, 4, 3, 3), (6,)))
    builder = liblora.Builder()
    for suffix, values in ((".lora_up.weight", up), (".diff_b", bias),
                           (".lora_down.weight", down)):
        builder.add(NAME + suffix, values)
    adapter = builder.finish()
    x = rng.standard_normal((2, 4, 5, 6)).astype(np.float32)
    layer = adapter.layer(NAME, 0.5, padding=1)
    want = 0.5 * (convolve(lora({"up": up.astype(float), "down":
                                 down.astype(float)}, (3, 3)), x,
                           {"padding": 1}) + bias[:, None, None])
    support.close(layer.forward(x), want, 2e-5, "y")
    whole = rng.standard_normal((6, 7, 3, 3)).astype(np.float32)
    builder = liblora.Builder()
    builder.add(NAME + ".diff", whole)
    builder.add(NAME + ".diff_b", bias)
    wide = rng.standard_normal((2, 7, 5, 6)).astype(np.float32)
    want = 0.5 * (convolve(whole.astype(float), wide, {"padding": 1}) +
                  bias[:, None, None])
    layer = builder.finish().layer(NAME, 0.5, padding=1)
    support.close(layer.forward(wide), want, 2e-5, "y of a full change")
    builder = liblora.Builder()
    for suffix, values in ((".lokr_w1", up[:3, :, 0, 0]), (".diff_b", bias),
                           (".lokr_w2", down[:, :, 0, 0])):
        builder.add(NAME + suffix, values)
    layer = builder.finish().layer(NAME, 2.0)
    x = rng.standard_normal((5, 8)).astype(np.float32)
    want = 2.0 * (x @ np.kron(up[:3, :, 0, 0], down[:, :, 0, 0]).T + bias)
    support.close(layer.forward(x), want, 2e-5, "y of LoKr")


def test_bias_gradient(liblora, shapes, batch, how):
    """Both tensors of a bias are factors, whose gradients are that of y summed;
    sums are in f64, so that one rounding is left."""
    rng = np.random.default_rng(8)
    values = {suffix: rng.standard_normal(shape).astype(np.float32)
              for suffix, shape in shapes.items()}
    builder = liblora.Builder()
    for suffix, value in values.items():
        builder.add(NAME + suffix, value)
    builder.add(NAME + ".alpha", np.float32(3.0))
    layer = builder.finish().layer(NAME, -0.5, **how)
    rank, rows = len(values[".lora_down.weight"]), len(values[".diff_b"])
    scales = {".diff_b": -0.5, ".lora_up.bias": -0.5 * 3.0 / rank}
    x = rng.standard_normal((batch[0], layer.shape[1], *batch[1:]))
    x = x.astype(np.float32)
    y = layer.forward(x)
    g = rng.standard_normal(y.shape).astype(np.float32)
    got = layer.backward(x, g)
    names = {name[len(NAME):]: role for role, name in layer.factors.items()}
    equal(list(names)[-2:], [".diff_b", ".lora_up.bias"], "the last factors")
    sums = np.moveaxis(g, 1, 0).reshape(rows, -1).astype(float).sum(axis=1)
    for suffix, scale in scales.items():
        value = got.factors[names[suffix]]
        equal(value.shape, (rows,), f"shape of {suffix}")
        support.close(value, scale * sums, 2.0**-23 * np.abs(scale * sums) +
                      1e-12, f"gradient of {suffix}")
    # y is linear in each: what others would be is told by what these are.
    more = {suffix: value + 1 for suffix, value in values.items()
            if suffix in scales}
    layer.set_factors({names[suffix]: v for suffix, v in more.items()})
    support.close(layer.forward(x), y + sum(scales.values()), 2e-5, "set")
    again = layer.backward(x, g, factors=False)
    equal(again.x.tobytes(), got.x.tobytes(), "gradient of x")


def test_ia3(liblora, place, suffixes, size):
    """(IA)3 in its place around a layer gives what the changed weight gives, by
    the formulas of LyCORIS, W o (1 + m w), and PEFT, W + m (W o l - W)."""
    out, into, strength, count = 70, 33, -0.7, 9
    rng = np.random.default_rng(sum(map(ord, place)) + len(size))
    width = into if place == "before" else out
    # Factors near one, as trained ones are.
    peft = ".ia3_l" in suffixes
    vector = (rng.standard_normal(width) * 0.3 + peft).astype(np.float32)
    name = "base_model.model.some.layer" if peft else NAME
    builder = liblora.Builder()
    for suffix, shape in suffixes.items():
        builder.add(name + suffix, np.float32(place == "before")
                    if suffix == ".on_input" else vector.reshape(shape))
    adapter = builder.finish()
    module, = adapter.modules
    kernel = (1,) * len(size)
    layer = adapter.layer(module["name"], strength, kernel=kernel)
    equal(layer.place, place, "place")
    equal(layer.shape, (width, width), "shape")
    scale = 1 + strength * (vector.astype(float) - peft)
    w, b = rng.standard_normal((out, into)), rng.standard_normal((out, 1))
    changed = w * (scale if place == "before" else scale[:, None])
    bias = b * scale[:, None] if place == "after" else b
    x = rng.standard_normal((count, into, math.prod(size)))
    # What stands there in the model, and what follows.
    seen = {"before": x, "product": w @ x, "after": w @ x + b}[place]
    seen = seen.astype(np.float32)
    y = layer.forward(seen.reshape(count, width, *size))
    summed = seen + y.reshape(seen.shape).astype(float)
    got = {"before": lambda: w @ summed + b, "product": lambda: summed + b,
           "after": lambda: summed}[place]()
    support.close(got, changed @ x + bias, 1e-5 * (1 + np.abs(changed) @
                                                   np.abs(x)), "y")
    g = rng.standard_normal(y.shape).astype(np.float32)
    back = layer.backward(seen.reshape(y.shape), g)
    flat = g.reshape(seen.shape).astype(float)
    support.close(back.x.reshape(seen.shape), (scale - 1)[:, None] * flat,
                  3 * 2.0**-24 * np.abs(flat), "gradient of x")
    (role, value), = back.factors.items()
    want = strength * np.sum(flat * seen, axis=(0, 2))
    support.close(value.ravel(), want, 1e-6 * np.sum(np.abs(flat * seen),
                                                     axis=(0, 2)), role)
    layer.set_factors({role: np.full(vector.shape, float(peft), np.float32)})
    equal(set(np.abs(layer.forward(seen.reshape(y.shape))).ravel()), {0.0},
          "what changes nothing")
    layer = adapter.layer(module["name"], strength, dtype="bfloat16",
                          kernel=kernel)
    half = Halves(liblora, "bfloat16")
    bits = half.bits(seen)
    batch = liblora._ffi.lora_layer_batch(
        count, (ctypes.c_int64 * 3)(math.prod(size)))
    found = np.empty(bits.shape, np.uint16)
    half.forward(layer, batch, bits, found, 0)
    want = (scale - 1)[:, None] * half.numbers(bits)
    support.close(half.numbers(found), want, 2.0**-8 * np.abs(want), "bf16")
    try:
        adapter.layer(module["name"], stride=2)
        raise AssertionError("a stride was taken")
    except liblora.LoraError as error:
        equal(error.status, liblora._ffi.LORA_ERROR_SHAPE, "status")


IA3 = [("product", {".weight": (70,), ".on_input": ()}),
       ("before", {".weight": (33,), ".on_input": ()}),
       ("after", {".ia3_l": (70, 1)}), ("before", {".ia3_l": (1, 33)})]


def embedding_by_hand(a, b, ids, g):
    """(y, gradient of A, gradient of B) of y = B A[:, id], in float64."""
    rows = a[:, ids].T
    grad_a = np.zeros(a.shape)
    np.add.at(grad_a.T, ids, g @ b)
    return rows @ b.T, grad_a, g.T @ rows


def embedding_of(suite, liblora, a, b, alpha, by_rows, context=None):
    """PEFT's, or llama.cpp's with A as [vocab, r]."""
    if by_rows:
        stored = test_gguf.Stored
        return liblora.open(test_gguf.write(
            suite.path("tokens.gguf"), {"token_embd" + test_gguf.LLAMA[0]:
                                        stored(a.T), "token_embd" +
                                        test_gguf.LLAMA[1]: stored(b)},
            [*test_gguf.LLAMA_PAIRS, ("adapter.lora.alpha", alpha)]),
            context=context)
    builder = liblora.Builder(context=context)
    for suffix, values in ((".lora_embedding_A", a), (".lora_embedding_B", b),
                           (".alpha", np.float32(alpha))):
        builder.add("base_model.model.model.embed_tokens" + suffix, values)
    return builder.finish()


def test_embedding(suite, liblora, count, repeated=False, by_rows=False):
    """Columns of A are looked up, those of one id more than once. A sum of
    `count` numbers in f32 errs by sqrt(count) 2^-24 of their magnitudes, times
    4 for 4 sigma."""
    vocab, rank, dim, scale = 50, 5, 24, 3.0 / 5
    rng = np.random.default_rng(count)
    a = rng.standard_normal((rank, vocab)).astype(np.float32)
    b = rng.standard_normal((dim, rank)).astype(np.float32)
    adapter = embedding_of(suite, liblora, a, b, 3.0, by_rows)
    module, = adapter.modules
    layer = adapter.layer(module["name"], -0.7)
    turn = (lambda v: v.T) if by_rows else (lambda v: v)
    equal(layer.shape, (dim, vocab), "shape")
    ids = rng.integers(0, vocab, count)
    ids[:2] = 0, vocab - 1
    if repeated:
        ids[2:] = 7
    g = rng.standard_normal((count, dim)).astype(np.float32)
    noise = NOISE + 4 * math.sqrt(count) * 2.0**-24
    want = embedding_by_hand(a.astype(float), b.astype(float), ids, g)
    room = embedding_by_hand(np.abs(a).astype(float), np.abs(b), ids,
                             np.abs(g))
    y = layer.forward(ids.reshape(1, count))
    equal(y.shape, (1, count, dim), "shape of y")
    back = layer.backward(ids, g)
    equal(back.x, None, "no gradient of ids")
    down, up = back.factors.values()
    found = [y[0], turn(down), up]
    for what, one, other, size in zip(("y", "gA", "gB"), found, want, room):
        support.close(one, -0.7 * scale * other, noise * size + 1e-12, what)
    for threads in (1, 3):
        context = liblora.Context(threads=threads)
        again = embedding_of(suite, liblora, a, b, 3.0, by_rows, context).layer(
            module["name"], -0.7)
        equal(again.forward(ids).tobytes(), y.tobytes(), "bits of y")
        for role, value in again.backward(ids, g).factors.items():
            equal(value.tobytes(), back.factors[role].tobytes(), role)
    for bad in (-1, vocab, 2**32):
        out = np.full((2, dim), 9.0, np.float32)
        try:
            layer.forward(np.array([0, bad]), out=out)
            raise AssertionError(f"id {bad} was taken")
        except liblora.LoraError as error:
            equal(error.status, liblora._ffi.LORA_ERROR_RANGE, "status")
        equal(set(out.ravel()), {9.0}, "nothing is written")
    for what in ({"kernel": 3}, {"groups": 2}):
        try:
            adapter.layer(module["name"], **what)
            raise AssertionError(f"{what} was taken")
        except liblora.LoraError as error:
            equal(error.status, liblora._ffi.LORA_ERROR_SHAPE, "status")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    liblora = bindinglib.load(suite)
    for seed, case in enumerate(CASES):
        for test in (test_forward, test_backward, test_sums, test_threads,
                     test_steps, test_set):
            with suite.case(f"{case[0]}: {test.__name__[5:]}"):
                test(liblora, seed, case)
        for dtype in HALF:
            with suite.case(f"{case[0]}: {dtype}"):
                test_half(liblora, seed, case, dtype)
    with suite.case("bias"):
        test_bias(liblora)
    for place, suffixes in IA3:
        for size in ((), (1000,)):
            title = f"(IA)3 {place}, {', '.join(suffixes)}, {size}"
            with suite.case(title):
                test_ia3(liblora, place, suffixes, size)
    with suite.case("embedding, 3 ids"):
        test_embedding(suite, liblora, 3)
    with suite.case("embedding, 700 ids"):
        test_embedding(suite, liblora, 700)
    with suite.case("embedding, one id many times"):
        test_embedding(suite, liblora, 300, repeated=True)
    with suite.case("embedding, A by rows"):
        test_embedding(suite, liblora, 40, by_rows=True)
    with suite.case("gradients of a bias"):
        test_bias_gradient(liblora, {
            ".lora_up.weight": (70, 2), ".lora_down.weight": (2, 5),
            ".diff_b": (70,), ".lora_up.bias": (70,)}, (9,), {})
    with suite.case("gradients of a convolution's bias"):
        test_bias_gradient(liblora, {
            ".lora_up.weight": (6, 2, 1, 1), ".lora_down.weight": (2, 4, 3, 3),
            ".diff_b": (6,), ".lora_up.bias": (6,)}, (3, 7, 5), {"padding": 1})
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
