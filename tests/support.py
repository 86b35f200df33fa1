"""Helpers of the Python tests: running the program, counting results, and an
independent safetensors reader and writer (numpy only).

A test script makes one Suite, wraps each case in `with suite.case(name):`, and
ends with `sys.exit(suite.finish())`. A case fails by any exception; `skip()`
leaves it out. Everything a test writes goes to a folder of its own below the
build folder, removed at the end.

The reader is stricter than the program needs it to be: it refuses whatever the
program must never write. The numbers are plain numpy float64, written from the
formulas of the formats, so that no code of the library judges itself.
"""

import argparse
import contextlib
import json
import math
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
import zipfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared"

# Exit codes of the program.
OK, FAILED, USAGE, UNREADABLE, MISMATCH, MEMORY = 0, 1, 2, 3, 4, 5

TIMEOUT = 120  # seconds for one run of the program; a hang is a failure


class Skip(Exception):
    """Raised by skip(): the case cannot run here."""


def skip(why):
    raise Skip(why)


class Run:
    """What one run of the program gave."""

    def __init__(self, command, code, out, err):
        self.command, self.code, self.out, self.err = command, code, out, err

    def json(self):
        return json.loads(self.out)

    def __str__(self):
        text = self.err.strip() or self.out.strip()
        return f"{' '.join(self.command[1:])}: exit {self.code}: {text[:400]}"


class Suite:
    def __init__(self, description, configure=None):
        """configure(parser) may add arguments; they end up in self.args."""
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--lora", required=True, help="the program")
        parser.add_argument("--build", default=".", help="where to write")
        if configure:
            configure(parser)
        self.args = parser.parse_args()
        self.program = str(pathlib.Path(self.args.lora).resolve())
        build = pathlib.Path(self.args.build).resolve()
        build.mkdir(parents=True, exist_ok=True)
        prefix = pathlib.Path(sys.argv[0]).stem + "-"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=build))
        self.passed = self.failed = self.skipped = 0

    @contextlib.contextmanager
    def case(self, name):
        try:
            yield
        except Skip as why:
            self.skipped += 1
            print(f"skipped {name}: {why}")
        except Exception as error:  # any error of a case is its failure
            self.failed += 1
            print(f"FAILED  {name}: {describe(error)}")
        else:
            self.passed += 1

    def path(self, name):
        return self.folder / name

    def unpack(self, pack):
        """Extract tests/golden/<pack>.zip; returns (folder, its cases)."""
        folder = self.folder / pack
        with zipfile.ZipFile(GOLDEN / f"{pack}.zip") as archive:
            archive.extractall(folder)
        return folder, json.loads((folder / "cases.json").read_text("utf-8"))

    def run(self, *args, code=OK, program=None, largest=None, memory=None):
        """Run the program; an exit code other than `code` (a number, a set of
        them, or None for any) is an error, a signal or the report of a
        sanitizer always is. `largest`: no file may grow beyond so many bytes,
        as on a full disk. `memory`: nor the program's own memory."""
        command = [program or self.program, *map(str, args)]
        limits = [(resource.RLIMIT_FSIZE, largest),
                  (resource.RLIMIT_DATA, memory)]

        def limit():
            # The signal stays ignored in the program: the write fails.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            for what, most in limits:
                if most:
                    resource.setrlimit(what, (most, most))

        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        limited = largest or memory
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT,
                              stdin=subprocess.DEVNULL,
                              preexec_fn=limit if limited else None,
                              restore_signals=not limited)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = Run(command, done.returncode, done.stdout.decode("utf-8"),
                  done.stderr.decode("utf-8", "replace"))
        run.seconds = (after.ru_utime - before.ru_utime +
                       after.ru_stime - before.ru_stime)
        require(run.code >= 0, f"killed by signal {-run.code}: {run}")
        require("Sanitizer" not in run.err and "runtime error" not in run.err,
                f"sanitizer: {run.err[:2000]}")
        if code is not None:
            wanted = code if isinstance(code, (set, frozenset)) else {code}
            require(run.code in wanted, f"expected exit {wanted}, got {run}")
        return run

    def json(self, *args, **more):
        return self.run(*args, "--json", **more).json()

    def finish(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        tail = f", {self.skipped} skipped" if self.skipped else ""
        print(f"{self.passed} passed, {self.failed} failed{tail}")
        return 1 if self.failed or not self.passed + self.skipped else 0


def describe(error):
    if isinstance(error, AssertionError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{pathlib.Path(last.filename).name}:{last.lineno}"
    return f"{type(error).__name__}: {error} ({where})"


def require(condition, message):
    if not condition:
        raise AssertionError(message)


def equal(got, expected, what):
    require(got == expected, f"{what}: got {got!r}, expected {expected!r}")


def close(got, expected, bound, what):
    """Every |got - expected| <= bound (a number or an array)."""
    got, expected = np.asarray(got), np.asarray(expected)
    equal(got.shape, expected.shape, f"{what}: shape")
    excess = np.abs(got - expected) - bound
    if got.size and not np.all(excess <= 0):  # NaN is not <= 0
        at = np.unravel_index(np.argmax(np.nan_to_num(excess, nan=np.inf)),
                              got.shape)
        limit = np.broadcast_to(bound, got.shape)[at]
        raise AssertionError(f"{what}: at {tuple(map(int, at))} got {got[at]!r}"
                             f", expected {expected[at]!r} within {limit:g}")


def one(rows, key, value):
    """The only dict of `rows` whose `key` is `value`."""
    found = [row for row in rows if row.get(key) == value]
    equal(len(found), 1, f"entries with {key} {value!r}")
    return found[0]


# Number types ---------------------------------------------------------------

def float_table(exponent, mantissa, bias, infinities, nans):
    """All 256 values of an 8-bit float."""
    values = np.empty(256)
    for code in range(256):
        e = (code >> mantissa) & ((1 << exponent) - 1)
        m = code & ((1 << mantissa) - 1)
        size = (math.ldexp(m, 1 - bias - mantissa) if e == 0 else
                math.ldexp((1 << mantissa) + m, e - bias - mantissa))
        values[code] = -size if code >> 7 else size
    for code, value in [*((c, np.inf) for c in infinities),
                        *((c, np.nan) for c in nans)]:
        values[code], values[code | 0x80] = value, -value
    return values


E4M3 = float_table(4, 3, 7, (), (0x7F,))
E5M2 = float_table(5, 2, 15, (0x7C,), (0x7D, 0x7E, 0x7F))

# name: (bytes of an element, numpy type of its bits), in the order in which
# the reference writer sorts, highest first.
DTYPES = {
    "U64": (8, "<u8"), "I64": (8, "<i8"), "F64": (8, "<f8"),
    "F32": (4, "<f4"), "U32": (4, "<u4"), "I32": (4, "<i4"),
    "BF16": (2, "<u2"), "F16": (2, "<f2"), "U16": (2, "<u2"),
    "I16": (2, "<i2"), "F8_E4M3": (1, "u1"), "F8_E5M2": (1, "u1"),
    "I8": (1, "i1"), "U8": (1, "u1"), "BOOL": (1, "u1"),
}
# F4, two elements a byte, is only ever written.
ORDER = {name: i for i, name in enumerate([*DTYPES, "F4"])}

# Unit roundoff and the spacing below the smallest normal number.
ROUNDOFF = {"F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
TINY = {"F64": 2.0**-1074, "F32": 2.0**-149, "F16": 2.0**-24, "BF16": 2.0**-133}


def round_bf16(values):
    """float32 to bfloat16 bits, to nearest, ties to even; NaN stays NaN."""
    values = np.asarray(values, "<f4").reshape(-1)
    bits = values.view("<u4")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet, rounded).astype("<u2")


class Tensor:
    """Bytes with a type and a shape, as in a file."""

    def __init__(self, dtype, shape, data, offset=0):
        self.dtype, self.shape = dtype, tuple(shape)
        self.data, self.offset = data, offset

    def same(self, other, shape=True):
        return (self.dtype == other.dtype and self.data == other.data and
                (not shape or self.shape == other.shape))

    def array(self):
        """The values as float64."""
        values = np.frombuffer(self.data, DTYPES[self.dtype][1])
        if self.dtype == "BF16":
            values = (values.astype("<u4") << 16).view("<f4")
        elif self.dtype in ("F8_E4M3", "F8_E5M2"):
            values = (E4M3 if self.dtype == "F8_E4M3" else E5M2)[values]
        return values.astype(np.float64).reshape(self.shape)


def tensor(values, dtype="F32", shape=None):
    """Round values (float32 first for the 16-bit types) into a Tensor."""
    values = np.asarray(values)
    shape = values.shape if shape is None else shape
    if dtype == "BF16":
        bits = round_bf16(values)
    elif dtype == "F16":
        with np.errstate(over="ignore"):
            bits = values.astype("<f4").astype("<f2")
    elif dtype in ("F8_E4M3", "F8_E5M2"):
        raise ValueError("make 8-bit floats from their codes")
    else:
        bits = values.astype(DTYPES[dtype][1])
    return Tensor(dtype, shape, bits.tobytes())


# safetensors ----------------------------------------------------------------

def read_header(path):
    """(header object, offset of the data)."""
    with open(path, "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        text = file.read(size)
    require(len(text) == size, f"{path}: header cut off")
    require(text[:1] == b"{", f"{path}: header does not begin with a brace")

    def pairs(items):
        names = [name for name, _ in items]
        require(len(set(names)) == len(names), f"{path}: a key twice")
        return dict(items)

    return json.loads(text.decode("utf-8"), object_pairs_hook=pairs), 8 + size


def read_file(path):
    """(tensors by name in the order of their data, metadata), all checked."""
    header, start = read_header(path)
    whole = pathlib.Path(path).read_bytes()
    metadata = header.pop("__metadata__", {})
    require(all(isinstance(v, str) for v in metadata.values()),
            f"{path}: metadata that is no text")
    tensors, at = {}, 0
    spans = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    for name, entry in spans:
        begin, end = entry["data_offsets"]
        size = DTYPES[entry["dtype"]][0] * math.prod(entry["shape"])
        require(begin == at and end - begin == size, f"{path}: span of {name}")
        tensors[name] = Tensor(entry["dtype"], entry["shape"],
                               whole[start + begin:start + end], start + begin)
        at = end
    equal(len(whole), start + at, f"{path}: bytes")
    return tensors, metadata


def require_writer_rules(path):
    """What a file of the program keeps to beyond the format: data aligned to 8
    bytes, tensors by element size and name, metadata first, keys sorted."""
    header, start = read_header(path)
    equal(start % 8, 0, f"{path}: alignment of the data")
    names = list(header)
    if "__metadata__" in header:
        equal(names.pop(0), "__metadata__", f"{path}: first key")
        keys = list(header["__metadata__"])
        equal(keys, sorted(keys, key=str.encode), f"{path}: metadata order")
    expected = sorted(names, key=lambda n: (ORDER[header[n]["dtype"]],
                                            n.encode()))
    equal(names, expected, f"{path}: order of tensors")
    offsets = [header[n]["data_offsets"] for n in names]
    equal(offsets, sorted(offsets), f"{path}: order of data")


def layout(tensors, metadata=None, old=False):
    """(names in order, length and header, bytes of data), for write_file()."""
    order = sorted(tensors, key=lambda n: n.encode() if old else
                   (ORDER[tensors[n].dtype], n.encode()))
    header, at = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name in order:
        t = tensors[name]
        end = at + getattr(t, "bytes", len(t.data))
        header[name] = {"dtype": t.dtype, "shape": list(t.shape),
                        "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    text = text.encode("utf-8")
    if not old:
        text += b" " * (-len(text) % 8)
    return order, struct.pack("<Q", len(text)) + text, at


def write_file(path, tensors, metadata=None, old=False):
    """Write as the reference writer does now, or (old) as it did at first:
    sorted by name alone, header not padded."""
    order, header, _ = layout(tensors, metadata, old)
    with open(path, "wb") as file:
        file.write(header)
        for name in order:
            file.write(tensors[name].data)


def write_sparse(path, tensors, metadata=None):
    """The same, of zeros that take no room: tensors have `bytes`, no data."""
    _, header, size = layout(tensors, metadata)
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + size)


# The formulas ---------------------------------------------------------------

def resolve_scale(alpha, rank):
    """alpha / rank; 1 where alpha is missing or 0."""
    return alpha / rank if alpha else 1.0


def flat(array):
    return array.reshape(array.shape[0], -1)


def lora_delta(down, up, mid=None, scale=1.0):
    """(dW, the same with absolute values), both of the shape the factors tell.

    dW[p, q, x] = scale * sum_k up[p, k] down[k, q, x], or with a core
    dW[p, q, x] = scale * sum_ij up[p, i] mid[i, j, x] down[j, q].
    The second is what bounds of rounding errors are made of.
    """
    results = []
    for f in (lambda a: a, np.abs):
        if mid is None:
            product = flat(f(up)) @ flat(f(down))
            shape = (up.shape[0],) + down.shape[1:]
        else:
            core = f(mid).reshape(mid.shape[0], mid.shape[1], -1)
            product = np.einsum("pi,ijx,jq->pqx", flat(f(up)), core,
                                flat(f(down)), optimize=True)
            shape = (up.shape[0], down.shape[1]) + mid.shape[2:]
        results.append(f(np.float64(scale)) * product.reshape(shape))
    return results


KOHYA = {"down": ".lora_down.weight", "up": ".lora_up.weight",
         "mid": ".lora_mid.weight", "alpha": ".alpha", "scalar": ".scalar"}


def module_names(tensors, suffix=KOHYA["down"]):
    return [n[:-len(suffix)] for n in tensors if n.endswith(suffix)]


def module_scale(tensors, module):
    rank = tensors[module + KOHYA["down"]].shape[0]
    alpha = tensors.get(module + KOHYA["alpha"])
    scale = resolve_scale(None if alpha is None else
                          float(alpha.array().reshape(-1)[0]), rank)
    scalar = tensors.get(module + KOHYA["scalar"])
    if scalar is not None:
        scale *= float(scalar.array().reshape(-1)[0])
    return scale


def module_delta(tensors, module):
    """As lora_delta(), of a module with kohya's names."""
    part = {role: tensors[module + suffix].array()
            for role, suffix in KOHYA.items() if module + suffix in tensors}
    return lora_delta(part["down"], part["up"], part.get("mid"),
                      module_scale(tensors, module))


def loha_delta(part):
    """(w1_a w1_b) o (w2_a w2_b) as [out, in * K], of arrays by their names
    behind "hada_"."""
    def product(n):
        a, b, core = (part.get(name) for name in
                      (f"w{n}_a", f"w{n}_b", f"t{n}"))
        if core is None:
            return flat(a) @ flat(b)
        core = core.reshape(core.shape[0], core.shape[1], -1)
        return flat(np.einsum("ijx,ip,jq->pqx", core, a, b))

    return product(1) * product(2)


def lokr_delta(part):
    """dW[a * o2 + b, (c * i2 + d) * K + x] = w1[a, c] w2[b, d, x], of arrays by
    their names behind "lokr_"."""
    def whole(name):
        a, b = part.get(name + "_a"), part.get(name + "_b")
        if name in part:
            return flat(part[name])
        if name == "w2" and "t2" in part:
            core = part["t2"]
            core = core.reshape(core.shape[0], core.shape[1], -1)
            return flat(np.einsum("ijx,ip,jq->pqx", core, a, b))
        return flat(a) @ flat(b)

    product = np.einsum("ac,bd->abcd", whole("w1"), whole("w2"))
    o1, o2, i1, i2 = product.shape
    return product.reshape(o1 * o2, i1 * i2)


def lokr_rank(part):
    """Of the pair that alpha is divided by the rank of, or None."""
    b = part.get("w2_b", part.get("w1_b"))
    return None if b is None else b.shape[0]


def module_change(tensors, module, scale=None):
    """dW of a module of LoRA, LoHa or LoKr, [out, in * K]; scale as kohya's
    names tell it, unless it is given."""
    def parts(kind):
        start = f"{module}.{kind}_"
        return {name[len(start):]: t.array() for name, t in tensors.items()
                if name.startswith(start)}

    if module + KOHYA["down"] in tensors:
        return flat(module_delta(tensors, module)[0])
    kind, part = next((kind, parts(kind)) for kind in ("hada", "lokr")
                      if parts(kind))
    if scale is None:
        rank = part["w1_b"].shape[0] if kind == "hada" else lokr_rank(part)
        alpha = tensors.get(module + KOHYA["alpha"])
        alpha = alpha and float(alpha.array().reshape(-1)[0])
        scalar = tensors.get(module + KOHYA["scalar"])
        scale = resolve_scale(alpha, rank) if rank else 1.0
        scale *= float(scalar.array().reshape(-1)[0]) if scalar else 1.0
    return scale * (loha_delta if kind == "hada" else lokr_delta)(part)
