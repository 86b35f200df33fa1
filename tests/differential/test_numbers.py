"""Random adapters against numpy float64: weight changes, conversions of number
types, and singular values.

Bounds. The weight change in float32 is a sum of r products by fused
multiply-add, then one multiplication by the scale. Both factors (where they
are float64) and the scale may be rounded to float32 first: three roundings
more, and one for the multiplication. So with n = r + 4 and u = 2^-24,
elementwise,

  |got - dW| <= n u / (1 - n u) * |scale| |up| |down| + n t max(1, |scale|)

with t = 2^-149 for products that are subnormal. With a core, multiplied into
down first, n = r1 + r2 + 6. In float64 the same with u = 2^-52, which leaves
room for the rounding of the reference. Conversions are compared bit by bit,
singular values to 1e-10 sigma_1.
"""

import itertools
import math
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import KOHYA, equal, require, tensor  # noqa: E402

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


def random_tensor(rng, shape, dtype, size=1.0):
    if dtype.startswith("F8"):
        codes = rng.integers(0, 256, shape, "u1")
        table = support.E4M3 if dtype == "F8_E4M3" else support.E5M2
        codes[~np.isfinite(table[codes])] = 0x11
        return support.Tensor(dtype, shape, codes.tobytes())
    return tensor(rng.standard_normal(shape) * size, dtype)


class Layer:
    """Shapes of the factors of one layer."""

    def __init__(self, out, in_, rank, kernel=(), core=None, flat=False,
                 four=False):
        """kernel: of the weight; core: second rank of a Tucker core; flat: 2-D
        factors of a 1x1 convolution; four: 4-D factors of a linear layer."""
        ones = (1,) * len(kernel)
        self.rank = rank
        self.up = (out, rank) + ones
        self.down = (rank, in_) + kernel
        self.mid = None
        if core is not None:
            # mid [r1, r2, k...]: r1 meets up, r2 meets down.
            self.up = (out, core) + ones
            self.down = (rank, in_) + ones
            self.mid = (core, rank) + kernel
        if flat:
            self.up, self.down = self.up[:2], self.down[:2]
        if four:
            self.up, self.down = self.up + (1, 1), self.down + (1, 1)

    def tensors(self, name, rng, dtype, alpha=None, size=1.0):
        made = {name + KOHYA["up"]: random_tensor(rng, self.up, dtype, size),
                name + KOHYA["down"]: random_tensor(rng, self.down, dtype,
                                                    size)}
        if self.mid:
            made[name + KOHYA["mid"]] = random_tensor(rng, self.mid, dtype,
                                                      size)
        if alpha is not None:
            made[name + KOHYA["alpha"]] = alpha
        return made


LAYERS = {
    "linear": Layer(17, 23, 5), "wide": Layer(3, 200, 4),
    "tall": Layer(257, 2, 3), "rank1": Layer(9, 31, 1),
    "full": Layer(8, 6, 11), "one": Layer(1, 1, 1),
    "square64": Layer(64, 64, 64), "linear4d": Layer(12, 10, 4, four=True),
    "conv1": Layer(10, 14, 3, (1, 1)), "conv1flat": Layer(10, 14, 3, (1, 1),
                                                          flat=True),
    "conv3": Layer(11, 7, 4, (3, 3)), "conv35": Layer(6, 5, 2, (3, 5)),
    "conv1d": Layer(9, 8, 3, (3,)), "conv3d": Layer(4, 3, 2, (1, 3, 3)),
    "tucker": Layer(12, 10, 4, (3, 3), core=4),
    "tucker2": Layer(12, 10, 3, (3, 3), core=6),
    "tucker1": Layer(5, 6, 1, (2, 2), core=1),
}


def alphas(rank):
    """what: (tensor or None)"""
    i64 = np.array(2 * rank, "<i8").tobytes()
    return {
        "missing": None, "zero": tensor(np.float64(0)),
        "rank": tensor(np.float64(rank)), "odd": tensor(np.float64(0.7)),
        "negative": tensor(np.float64(-1.25)),
        "large": tensor(np.float64(1e10)), "small": tensor(np.float64(1e-10)),
        "f16": tensor(np.float64(0.1), "F16"),
        "bf16": tensor(np.float64(0.1), "BF16"),
        "f64": tensor(np.float64(1 / 3), "F64"),
        "f16 zero": tensor(np.float64(0), "F16"),
        "vector": tensor(np.array([1.5])), "matrix": tensor(np.ones((1, 1))),
        "i64": support.Tensor("I64", (), i64),
        "i64 vector": support.Tensor("I64", (1,), i64),
        "i32": support.Tensor("I32", (), i64[:4]),
        "u8": support.Tensor("U8", (), i64[:1]),
    }


def delta_bound(tensors, module, unit, size, tiny):
    """See the head of this file; size is |scale| |up| |down|."""
    mid = tensors.get(module + KOHYA["mid"])
    count = (tensors[module + KOHYA["down"]].shape[0] + 4 if mid is None else
             mid.shape[0] + mid.shape[1] + 6)
    scale = max(1.0, abs(support.module_scale(tensors, module)))
    relative = count * unit
    return relative / (1 - relative) * size + count * tiny * scale


def check_delta(suite, path, tensors, what, strength=1.0):
    names = support.module_names(tensors)
    for dtype, unit, tiny in (("f32", 2.0**-24, 2.0**-149),
                              ("f64", 2.0**-52, 0.0)):
        out = suite.path("delta.safetensors")
        suite.run("delta", path, "-o", out, "--dtype", dtype, "--force",
                  "--strength", repr(strength))
        support.require_writer_rules(out)
        got, _ = support.read_file(out)
        equal(sorted(got), sorted(names), f"{what}: modules")
        for module in names:
            want, size = support.module_delta(tensors, module)
            bound = delta_bound(tensors, module, unit, abs(strength) * size,
                                tiny)
            equal(got[module].dtype, dtype.upper(), f"{what}: dtype")
            equal(math.prod(got[module].shape), want.size,
                  f"{what}: elements of {module}")
            values = got[module].array().reshape(want.shape)
            support.close(values, strength * want, bound,
                          f"{what}: {dtype} delta of {module}")


def check_layers(suite, rng, dtype, old):
    """Every shape of layer, in one file, of one dtype."""
    tensors = {}
    for name, layer in LAYERS.items():
        alpha = tensor(np.float64(rng.integers(1, 9)))
        tensors.update(layer.tensors("lora_unet_" + name, rng, dtype, alpha))
    path = suite.path("layers.safetensors")
    support.write_file(path, tensors, {"note": "x" * rng.integers(1, 9)}, old)
    check_delta(suite, path, tensors, f"{dtype}{' old' if old else ''}")
    modules = suite.json("info", path, "--modules")["modules"]
    for module in modules:
        layer = LAYERS[module["name"][len("lora_unet_"):]]
        equal(module["rank"], layer.rank, f"rank of {module['name']}")
        equal(module["tucker"], layer.mid is not None, module["name"])


def check_shapes(suite, rng):
    """The shape of the weight, as far as the factors tell it."""
    tensors = {}
    for name, layer in LAYERS.items():
        tensors.update(layer.tensors("lora_unet_" + name, rng, "F32"))
    path, out = suite.path("s.safetensors"), suite.path("shapes.safetensors")
    support.write_file(path, tensors)
    suite.run("delta", path, "-o", out)
    got, _ = support.read_file(out)
    for module in support.module_names(tensors):
        want = support.module_delta(tensors, module)[0].shape
        equal(got[module].shape, want, f"shape of {module}")


def check_alpha(suite, rng):
    """Every way to store alpha, and what info says of it."""
    tensors = {}
    layer = Layer(6, 7, 4)
    for i, alpha in enumerate(alphas(layer.rank).values()):
        tensors.update(layer.tensors(f"lora_unet_m{i}", rng, "F32", alpha))
    path = suite.path("alphas.safetensors")
    support.write_file(path, tensors)
    check_delta(suite, path, tensors, "alpha")
    check_delta(suite, path, tensors, "alpha", -0.375)
    info = suite.json("info", path, "--modules")
    for i, (what, alpha) in enumerate(alphas(layer.rank).items()):
        module = support.one(info["modules"], "name", f"lora_unet_m{i}")
        scale = support.module_scale(tensors, f"lora_unet_m{i}")
        support.close(module["scale"], scale, 1e-15 * abs(scale), what)
        stored = None if alpha is None else float(alpha.array().reshape(-1)[0])
        equal(module["alpha"], stored, f"alpha {what}")


def check_scalar(suite, rng):
    """A stored gate multiplies once."""
    layer = Layer(6, 7, 4)
    tensors = layer.tensors("lora_unet_a", rng, "F32", tensor(np.float64(2)))
    tensors["lora_unet_a.scalar"] = tensor(np.float64(-0.625))
    path = suite.path("scalar.safetensors")
    support.write_file(path, tensors)
    check_delta(suite, path, tensors, "scalar")


def check_extremes(suite, rng):
    """Scales from 1e-20 to 1e20, subnormal factors, zeros."""
    tensors = {}
    for i, (size, dtype) in enumerate(itertools.product(
            (1e-20, 1e-10, 1.0, 1e10, 1e15), ("F32", "BF16"))):
        tensors.update(Layer(7, 9, 3).tensors(f"lora_unet_m{i}", rng, dtype,
                                              None, size))
    tensors.update(Layer(7, 9, 3).tensors("lora_unet_sub", rng, "F16", None,
                                          1e-7))
    tensors.update(Layer(7, 9, 3).tensors("lora_unet_zero", rng, "F32", None,
                                          0.0))
    path = suite.path("extremes.safetensors")
    support.write_file(path, tensors)
    check_delta(suite, path, tensors, "extremes")


# Conversions ----------------------------------------------------------------

def hard_values(dtype, limit):
    """Numbers of float32 at, below and above the halves between neighbours of
    a 16-bit type, subnormal ones, and zeros of both signs."""
    if dtype == "F16":
        codes = np.arange(0x7C00, dtype="<u2").view("<f2").astype("<f4")
    else:
        codes = (np.arange(0x7F80, dtype="<u4") << 16).view("<f4")
    low, high = codes[:-1].astype(np.float64), codes[1:].astype(np.float64)
    halves = ((low + high) / 2).astype("<f4")
    near = [halves, np.nextafter(halves, np.float32(0)),
            np.nextafter(halves, np.float32(np.inf)), codes]
    values = np.concatenate(near)
    values = values[np.isfinite(values) & (np.abs(values) < limit)]
    return np.concatenate([values, -values])


LIMIT = {"F16": 65520.0, "BF16": 3.3961e38}  # the rest rounds to infinity


def check_conversion(suite, source, target, values):
    """Factors of `source` converted to `target`: the bits numpy gives."""
    size = values.size // 2 * 2
    values = values[:size].reshape(2, -1)
    up = tensor(np.ones((3, 2)), source)
    tensors = {"lora_unet_a.lora_up.weight": up,
               "lora_unet_a.lora_down.weight": tensor(values, source),
               "lora_unet_a.alpha": tensor(np.float64(1))}
    path, out = suite.path("in.safetensors"), suite.path("out.safetensors")
    support.write_file(path, tensors)
    suite.run("convert", path, "-o", out, "--dtype", target.lower(), "--force")
    support.require_writer_rules(out)
    got, _ = support.read_file(out)
    equal(sorted(got), sorted(tensors), "names")
    for role in ("up", "down"):
        key = "lora_unet_a" + KOHYA[role]
        want = tensor(tensors[key].array(), target)
        if not got[key].same(want):
            raise AssertionError(f"{source} to {target}, {role}: "
                                 f"{differing(got[key], want)}")
    equal(float(got["lora_unet_a.alpha"].array()), 1.0, "alpha")


def differing(got, want):
    if (got.dtype, got.shape) != (want.dtype, want.shape):
        return f"{got.dtype}{got.shape}, expected {want.dtype}{want.shape}"
    bits = support.DTYPES[got.dtype][1].replace("f", "u")
    a, b = np.frombuffer(got.data, bits), np.frombuffer(want.data, bits)
    at = int(np.flatnonzero(a != b)[0])
    return f"element {at}: bits {a[at]:#x}, expected {b[at]:#x}"


def check_overflow(suite, target):
    """A value that rounds to infinity is refused, its neighbour is not."""
    limit = np.float32(LIMIT[target])
    below = np.nextafter(limit, np.float32(0))
    path, out = suite.path("in.safetensors"), suite.path("over.safetensors")
    for value, code in ((below, support.OK), (-below, support.OK),
                        (limit, support.MISMATCH), (-limit, support.MISMATCH)):
        if target == "BF16" and code != support.OK:
            value = math.copysign(3.4e38, value)
        down = np.ones((2, 5))
        down[1, 3] = value
        support.write_file(path, {
            "lora_unet_a.lora_up.weight": tensor(np.ones((4, 2))),
            "lora_unet_a.lora_down.weight": tensor(down)})
        run = suite.run("convert", path, "-o", out, "--dtype", target.lower(),
                        code=code)
        equal(out.exists(), code == support.OK, "output")
        if code == support.OK:
            out.unlink()
        else:
            require("lora_unet_a" in run.err, f"tensor not named: {run}")


def check_alpha_dtype(suite):
    """alpha keeps its value when the factors' type could not hold it."""
    path, out = suite.path("in.safetensors"), suite.path("out.safetensors")
    for value in (0.1, 8.0, 1 / 3, 70000.0, 1e-9):
        tensors = Layer(5, 6, 2).tensors("lora_unet_a",
                                         np.random.default_rng(1), "F32",
                                         tensor(np.float64(value)))
        support.write_file(path, tensors)
        for target in ("f16", "bf16"):
            suite.run("convert", path, "-o", out, "--dtype", target, "--force")
            got, _ = support.read_file(out)
            equal(float(got["lora_unet_a.alpha"].array()),
                  float(np.float32(value)), f"alpha in {target}")


# Singular values ------------------------------------------------------------

def check_spectrum(suite, rng, dtype):
    """Spectra and errors against the SVD of the dense product."""
    tensors = {}
    for name, layer in LAYERS.items():
        if layer.mid or layer.rank <= 8 or name == "square64":
            tensors.update(layer.tensors("lora_unet_" + name, rng, dtype,
                                         tensor(np.float64(1.5))))
    path, out = suite.path("spec.safetensors"), suite.path("spec2.safetensors")
    support.write_file(path, tensors)
    report = suite.json("resize", path, "-o", out, "--rank", 2, "--force")
    got, _ = support.read_file(out)
    for module in support.module_names(tensors):
        row = support.one(report["modules"], "name", module)
        delta = support.flat(support.module_delta(tensors, module)[0])
        sigma = np.linalg.svd(delta, compute_uv=False)
        values = np.array(row["sigma"])
        want = np.zeros_like(values)
        count = min(values.size, sigma.size)
        want[:count] = sigma[:count]
        support.close(values, want, 1e-10 * sigma[0], f"sigma of {module}")
        rank = row["rank_out"]
        inner = tensors[module + KOHYA["up"]].shape[1]
        equal(rank, min(2, inner, *delta.shape), f"rank of {module}")
        written = support.flat(support.module_delta(got, module)[0])
        error = np.linalg.norm(written - delta)
        tail = math.sqrt(float(np.sum(sigma[rank:] ** 2)))
        # Balanced factors, each entry rounded: see tests/golden/test_ranks.py.
        u = support.ROUNDOFF[dtype]
        slack = (2 * u + u * u) * float(np.sum(sigma[:rank])) + \
            1e-12 * sigma[0]
        require(error <= tail * (1 + 1e-6) + slack,
                f"{module}: error {error:g}, best {tail:g}, slack {slack:g}")
        support.close(row["error"], error, 1e-6 * error + 1e-7 * sigma[0],
                      f"reported error of {module}")


def check_kept(suite, rng):
    """A layer that keeps its rank and changes its type: what rounding costs
    is in the report."""
    layer = LAYERS["square64"]
    path, out = suite.path("kept.safetensors"), suite.path("kept2.safetensors")
    tensors = layer.tensors("lora_unet_a", rng, "F32",
                            tensor(np.float64(-1.5)))
    support.write_file(path, tensors)
    for dtype in ("f16", "bf16"):
        report = suite.json("resize", path, "-o", out, "--rank", layer.rank,
                            "--dtype", dtype, "--force")
        got, _ = support.read_file(out)
        before = support.flat(support.module_delta(tensors, "lora_unet_a")[0])
        after = support.flat(support.module_delta(got, "lora_unet_a")[0])
        error = np.linalg.norm(after - before)
        require(error > 0, "rounding changes something")
        row = report["modules"][0]
        support.close(row["error"], error, 1e-6 * error, "reported error")
        energy = 1 - (error / np.linalg.norm(before)) ** 2
        support.close(row["energy"], energy, 1e-12, "reported energy")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    rng = np.random.default_rng(11)
    for dtype in FLOATS:
        for old in (False, True):
            with suite.case(f"layers in {dtype}{', old header' * old}"):
                check_layers(suite, rng, dtype, old)
    with suite.case("shapes"):
        check_shapes(suite, rng)
    with suite.case("alpha"):
        check_alpha(suite, rng)
    with suite.case("scalar"):
        check_scalar(suite, rng)
    with suite.case("extreme sizes"):
        check_extremes(suite, rng)
    wide = rng.standard_normal(40001) * 2.0 ** rng.integers(-30, 15, 40001)
    for target in ("F16", "BF16"):
        with suite.case(f"every half of {target}"):
            values = hard_values(target, LIMIT[target])
            check_conversion(suite, "F32", target, values)
        with suite.case(f"overflow of {target}"):
            check_overflow(suite, target)
    for source, target in itertools.product(("F32", "F16", "BF16"), repeat=2):
        with suite.case(f"{source} to {target}"):
            check_conversion(suite, source, target, np.clip(wide, -6e4, 6e4))
    with suite.case("alpha beside converted factors"):
        check_alpha_dtype(suite)
    for dtype in ("F32", "F16", "BF16"):
        with suite.case(f"singular values in {dtype}"):
            check_spectrum(suite, rng, dtype)
    with suite.case("the error of a new type alone"):
        check_kept(suite, rng)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
