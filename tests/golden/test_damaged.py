"""Damaged modules of every kind: files of the trainers, each with one tensor
left out, of another shape, or with numbers that are none.

Either the module is refused, with its name and the class that says why, or the
file still means something: then the change is what the formula of the kind, in
numpy float64, makes of the same damaged tensors. A weight of the base that does
not fit is refused as well, also where the change does not depend on it.
"""

import collections
import json
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "bindings")]
import bindinglib  # noqa: E402
import support  # noqa: E402
import test_adalora  # noqa: E402
import test_base  # noqa: E402
import test_kinds  # noqa: E402
from support import equal, require, tensor  # noqa: E402

LIGHT = ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1."
         "processor.to_q_lora")
CLASSES = ("SHAPE", "KEY", "NONFINITE", "UNSUPPORTED")

def again(old, values):
    return tensor(values, old.dtype)


def longer(values, axis):
    """One more, the first again."""
    return np.concatenate([values, values.take([0], axis)], axis)


def shapes(old):
    """(what, tensor): the same numbers in other shapes."""
    values = old.array()
    for axis, count in enumerate(values.shape):
        yield f"one more along {axis}", again(old, longer(values, axis))
        yield (f"one fewer along {axis}",
               again(old, values.take(range(count - 1), axis)))
        yield f"nothing along {axis}", again(old, values.take([], axis))
    if values.ndim > 1:
        yield "transposed", again(old, np.swapaxes(values, 0, 1))
        yield "of one dimension", again(old, values.reshape(-1))
    yield "a scalar", again(old, values.reshape(-1)[0])
    yield "with one more dimension", again(old, np.stack([values, values], -1))


def numbers(old):
    """(what, tensor): what is no number, in one place or everywhere."""
    for what in (np.nan, np.inf, -np.inf):
        values = old.array().copy()
        if old.dtype in ("F32", "F16", "BF16", "F64"):
            values.reshape(-1)[-1] = what
            yield f"with {what}", again(old, values)


def damages(tensors, names):
    """(what, all tensors)"""
    for name in names:
        if len(names) > 1:
            yield (f"without {name}",
                   {n: t for n, t in tensors.items() if n != name})
        for make in (shapes, numbers):
            for what, new in make(tensors[name]):
                yield f"{name} {what}", {**tensors, name: new}


# One of them ----------------------------------------------------------------

def opened(liblora, tensors, metadata, config):
    """The file in memory, by the interface of C."""
    order, header, _ = support.layout(tensors, metadata)
    data = header + b"".join(tensors[n].data for n in order)
    return liblora.open(data, config=config)


def status_name(liblora, error):
    return next(n for n in dir(liblora._ffi) if n.startswith("LORA_ERROR_") and
                getattr(liblora._ffi, n) == error.status)[11:]


def check(liblora, sample, what, tensors, tally):
    """sample: has .prefix, .metadata, .config, .base {part: array or None},
    .formula(tensors), which raises where there is none."""
    with opened(liblora, tensors, sample.metadata, sample.config) as adapter:
        names = [row["name"] for row in adapter.modules
                 if sample.prefix.startswith(row["name"])]
        if not names:
            said = [p for p in adapter.problems if p["subject"].startswith(
                sample.prefix) or p["code"] == "not_an_adapter"]
            require(said, f"{what}: nothing is said")
            tally["no module"] += 1
            return
        try:
            got = adapter.delta(names[0], dtype="F64", **sample.base)
        except liblora.LoraError as error:
            require(names[0] in f"{error.subject} {error.message}",
                    f"{what}: no module is named: {error}")
            name = status_name(liblora, error)
            require(name in CLASSES, f"{what}: {name}: {error}")
            tally[name] += 1
            return
    try:
        with np.errstate(all="ignore"):
            want = np.asarray(sample.formula(tensors))
    except Exception as error:
        raise AssertionError(f"{what}: there is no such change, but "
                             f"{got.shape} came: {error}") from error
    tally["computed"] += 1
    require(got.size == want.size, f"{what}: {got.shape}, not {want.shape}")
    want = want.reshape(got.shape)
    finite = np.isfinite(want)
    require(not np.isfinite(got[~finite]).any(), f"{what}: numbers for none")
    most = np.abs(want[finite]).max(initial=0.0)
    support.close(got[finite], want[finite], 1e-5 * most, what)


class Golden:
    """A module of a golden case; weights of the base are F32, as there."""

    def __init__(self, folder, case, target):
        self.case, self.target = case, target
        self.info = case["params"]["modules"][target]
        self.prefix = self.info["prefix"]
        self.tensors, self.metadata = support.read_file(folder /
                                                        case["adapter"])
        self.config = None
        if "config" in case["params"]:
            self.config = json.loads(
                (folder / case["params"]["config"]).read_text("utf-8"))
        self.arrays, self.base = {}, {}
        if case["operation"] == "patched_weight":
            self.arrays = test_kinds.arrays(folder / case["base"])
            self.base = {part: None if value is None else
                         value.astype(np.float32) for part, value in
                         (("weight", self.arrays[target + ".weight"]),
                          ("bias", self.arrays.get(target + ".bias")))}
        self.names = [n for n in self.tensors
                      if n.startswith(self.prefix + ".")]

    def formula(self, tensors):
        if self.config and not self.base:
            return self.peft(tensors)
        if not self.base:
            return support.module_change(tensors, self.prefix)
        case, form = self.case, test_base.formula_of(self.case)
        m = test_base.Module(case, self.config, self.target, tensors,
                             self.arrays)
        told = defaults(m, form)
        for name, value in told.items():
            m.own.setdefault(name, value)
        magnitude = m.own.get("dora_scale")
        if magnitude is not None:  # its shape says whose it is, not the case
            rows = magnitude.ndim == 1 or len(magnitude) == magnitude.size
            m.case = {**case, "params": {**case["params"],
                                         "options": {"wd_on_out": rows}}}
        if "dora_scale" not in m.own and form is test_base.dora:
            return support.module_change(tensors, self.prefix)
        if form is test_base.peft_dora and "lora_magnitude_vector" not in m.own:
            return self.peft(tensors)
        return form(m, 1.0)[0] - m.weight

    def peft(self, tensors):
        """Only matrices are turned: what has a kernel is a convolution."""
        info = self.info
        if info["type"] == "linear_transposed" and any(
                t.array().ndim > 2 for n, t in tensors.items()
                if n in self.names):
            info = {**info, "type": "conv"}
        return test_kinds.peft_formula(tensors, info, self.config,
                                       self.target)[0]


def defaults(m, form):
    """What a tensor that may be missing is then."""
    return {test_base.glora: lambda: {"alpha": len(m.own["a2.weight"])},
            test_base.tlora: lambda: {"alpha": len(m.own["q_layer.weight"])},
            test_base.oft: lambda: {"alpha": 0.0},
            test_base.boft: lambda: {"alpha": 0.0},
            test_base.peft_boft: lambda: {"boft_s": np.ones(len(m.weight))},
            test_base.norm: lambda: {"b_norm": np.zeros(len(m.weight))},
            }.get(form, dict)()


class Made:
    """A module of a kind that the golden cases here have none of."""

    def __init__(self, prefix, shapes, change, config=None, weight=None):
        rng = np.random.default_rng(len(shapes))
        self.prefix, self.config, self.metadata = prefix, config, None
        self.tensors = {prefix + suffix: tensor(rng.uniform(0.5, 1.5, dims))
                        for suffix, dims in shapes.items()}
        self.names, self.change = list(self.tensors), change
        self.base = {} if weight is None else {"weight": rng.standard_normal(
            weight).astype(np.float32)}

    def formula(self, tensors):
        own = {n[len(self.prefix) + 1:]: t.array() for n, t in tensors.items()}
        return self.change(own, *self.base.values())


def light(own):
    middle = (own["down_up.weight"] if "down_up.weight" in own else
              own["up.weight"] @ own["down.weight"])
    return own["up_aux.weight"] @ middle @ own["down_aux.weight"]


def adalora(own):
    ranknum = own["ranknum"].item() if "ranknum" in own else CONFIG["init_r"]
    own["lora_E"] = own["lora_E"].reshape(-1, 1)
    return test_adalora.change(own, CONFIG["lora_alpha"], ranknum)


def replaced(own, weight):
    require(own["set_weight"].shape == weight.shape, "another shape")
    return own["set_weight"] - weight


CONFIG = test_adalora.CONFIG
AUX = {".up_aux.weight": (13, 6), ".down_aux.weight": (9, 11)}
MADE = {
    "light": Made(LIGHT, {**AUX, ".up.weight": (6, 2), ".down.weight": (2, 9)},
                  light),
    "light, product": Made(LIGHT, {**AUX, ".down_up.weight": (6, 9)}, light),
    "adalora": Made(test_adalora.NAME, {".lora_A": (3, 5), ".lora_B": (7, 3),
                                        ".lora_E": (3, 1)}, adalora, CONFIG),
    "adalora, raw": Made(test_adalora.NAME, {
        ".lora_A": (3, 5), ".lora_B": (7, 3), ".lora_E": (3, 1),
        ".ranknum": (1,)}, adalora, CONFIG),
    "set": Made(test_base.KOHYA, {".set_weight": (5, 4)}, replaced,
                weight=(5, 4)),
    "set of a kernel": Made(test_base.KOHYA, {".set_weight": (5, 4, 3, 3)},
                            replaced, weight=(5, 4, 3, 3)),
}


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    liblora = bindinglib.load(suite)
    folder, cases = suite.unpack("kinds")
    tally = collections.Counter()
    for case in cases:
        if case["operation"] == "truncate":
            continue
        for target in case["params"]["modules"]:
            sample = Golden(folder, case, target)
            for what, tensors in damages(sample.tensors, sample.names):
                what = what.replace(sample.prefix, "")
                with suite.case(f"{case['id']}, {target}: {what}"):
                    check(liblora, sample, what, tensors, tally)
    for name, sample in MADE.items():
        for what, tensors in damages(sample.tensors, sample.names):
            what = what.replace(sample.prefix, "")
            with suite.case(f"{name}: {what}"):
                check(liblora, sample, what, tensors, tally)
    with suite.case("each class was met"):
        equal({n for n in CLASSES if tally[n] == 0}, set(), "never said")
        require(tally["computed"] > 500, f"hardly computed: {tally}")
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
