"""`resize` of every kind of the table: it works, leaves the module what it was,
or says in words why it does not.

What a golden case expects of the weight, less the weight, is decomposed by
numpy in float64. What comes out is read back as a dense change: of no higher a
rank than was asked for, and within 1.01 of the error that numpy's singular
values leave, plus the tolerance of the case and 1e-6 of the change, which is
what a sketch in f32 costs. The error that is reported is that of the file.

Of DoRA the report is about the changed weights, whose best rank is no matter of
singular values: what is left of it is in test_dora.py.
"""

import pathlib
import re
import sys

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "bindings")]
import bindinglib  # noqa: E402
import support  # noqa: E402
import test_base  # noqa: E402
import test_kinds  # noqa: E402
import test_size  # noqa: E402
from support import FAILED, KOHYA, MISMATCH, equal, require, tensor  # noqa: E402,E501
from test_base import arrays  # noqa: E402

RANKS = (1, 2, 4)

# Their tensors are a weight or all of its change, which nothing lowers.
WHOLE = {"full", "norm", "set"}

# Cases that cannot be done, and what a user reads.
REFUSED = {
    "tlora_conv3": (MISMATCH, "of the base is 10x8x3x3"),
    "dora_locon_conv3_in": (FAILED, "inputs of a convolution"),
    "dora_locon_conv3_square_in_bf16": (FAILED, "inputs of a convolution"),
    "peft_lora_embedding": (FAILED, "embedding has no factors"),
    "peft_lora_dora_embedding": (FAILED, "an embedding cannot become a pair"),
}


def kinds_of(suite, path, *more):
    rows = suite.json("info", path, "--modules", *more)["modules"]
    return {row["kind"] for row in rows}


class Source:
    """An adapter, with what it changes in float64."""

    def __init__(self, suite, folder, entry):
        self.entry = entry
        self.path, self.more, self.bias = folder / entry["adapter"], [], {}
        self.based = entry["operation"] == "patched_weight"
        self.base = folder / (entry["base"] or "")
        if "config" in entry["params"]:
            self.path = test_kinds.peft_file(suite, folder, entry)
        expected = arrays(folder / entry["expect"])
        base = arrays(self.base) if self.based else {}
        self.changes, self.bounds = {}, {}
        for target, info in entry["params"]["modules"].items():
            name = info["prefix"]
            key = target + (".weight@1" if self.based else ".delta")
            want = expected[key].astype(np.float64)
            self.bounds[name] = np.linalg.norm(
                test_kinds.tolerance(entry, want))
            if self.based:
                want = want - base[target + ".weight"].astype(np.float64)
            self.changes[name] = support.flat(want)
        self.kinds = kinds_of(suite, self.path)
        self.dora = entry["id"].startswith(("dora_", "peft_lora_dora"))

    def with_base(self):
        return ["--base", self.base] if self.based else []


def resize(suite, source, *more, code=support.OK):
    out = suite.path("resized.safetensors")
    out.unlink(missing_ok=True)
    run = suite.run("resize", source.path, "-o", out, "--json", *more,
                    code=code)
    if code != support.OK:
        require(not out.exists(), "an output was left")
        equal(len(run.err.splitlines()), 1, "lines")
        return run.err
    support.require_writer_rules(out)
    return out


def read_back(suite, source, path):
    out = suite.path("dense.safetensors")
    suite.run("delta", path, "-o", out, "--dtype", "f64", "--force",
              *(source.with_base() if source.dora else []))
    return {name: support.flat(value) for name, value in arrays(out).items()}


def check_change(suite, source, rank):
    out = suite.path("resized.safetensors")
    report = suite.json("resize", source.path, "-o", out, "--force", "--rank",
                        rank, "--dtype", "f32", *source.with_base())
    support.require_writer_rules(out)
    got = read_back(suite, source, out)
    for name, want in source.changes.items():
        size, room = np.linalg.norm(want), source.bounds[name]
        change = got[name].reshape(want.shape)
        error = np.linalg.norm(change - want)
        row = support.one(report["modules"], "name", name)
        require(row["rank_out"] <= rank or row["rank_out"] <= row["rank_in"],
                "rank")
        support.close(row["error"], error, 1e-5 * size + 2 * room, "error")
        if size > 10 * room:
            support.close(1 - row["energy"], (error / size) ** 2,
                          1e-5 + 4 * room / size, "share")
        if source.dora:
            continue
        sigma = np.linalg.svd(want, compute_uv=False)
        tail = np.linalg.norm(sigma[rank:])
        require(error <= 1.01 * tail + 1e-6 * size + room,
                f"{name}, rank {rank}: error {error}, the least {tail}")
        left = np.linalg.svd(change, compute_uv=False)[rank:]
        require(np.linalg.norm(left) <= 1e-6 * size + room, "rank of the file")


def check_whole(suite, source):
    for more in ([], source.with_base()):
        out = resize(suite, source, "--rank", 1, *more)
        before, after = (support.read_file(p)[0] for p in (source.path, out))
        equal(set(after), set(before), "tensors")
        for name, t in before.items():
            equal(after[name].data, t.data, name)


def check_refused(suite, source, code, words):
    said = resize(suite, source, "--rank", 1, *source.with_base(), code=code)
    require(words in said and next(iter(source.changes)) in said, said)


def check_no_base(suite, source):
    """Of those that depend on it; sizes and other rules alike."""
    for rule in (("--rank", 1), ("--energy", 0.9), ("--size", 100000)):
        said = resize(suite, source, *rule, code=FAILED)
        require("--base" in said and next(iter(source.changes)) in said, said)


def check_case(suite, source):
    case = source.entry["id"]
    if case in REFUSED:
        with suite.case(case + ", refused"):
            check_refused(suite, source, *REFUSED[case])
        return
    if source.kinds <= WHOLE and not source.dora:
        with suite.case(case + ", stays"):
            check_whole(suite, source)
        return
    with suite.case(case):
        for rank in RANKS:
            check_change(suite, source, rank)
    if source.based and not source.dora:
        with suite.case(case + ", without the base"):
            check_no_base(suite, source)


# Built ----------------------------------------------------------------------

class Mixed(test_size.Random):
    """Modules of many kinds in one file, with the singular values of the
    changes that are cut: of DoRA that inside."""

    def __init__(self, suite, seed):
        self.rng = np.random.default_rng(seed)
        self.tensors, self.weights = {}, {}
        self.sigma, self.cost = {}, {}
        self.changes, self.weighted = {}, {}  # the latter with DoRA
        for make in (self.glora, self.oft, self.boft, self.ia3, self.tlora,
                     self.dora, self.lora):
            for rows, cols in ((24, 16), (16, 40)):
                make(f"lora_unet_m{len(self.sigma)}", rows, cols)
        self.path = suite.path(f"mixed{seed}.safetensors")
        support.write_file(self.path, self.tensors, None)
        self.base = suite.path(f"mixed{seed}.base.safetensors")
        support.write_file(self.base, self.weights)
        # Those that become LoRA have other tensors then: none is at its rank.
        for name in self.sigma:
            self.tensors.setdefault(name + KOHYA["down"],
                                    tensor(np.zeros((0, 1)), "F32"))

    def put(self, name, **values):
        for key, value in values.items():
            value = np.asarray(value)
            integer = value.dtype.kind == "i"
            self.tensors[f"{name}.{key.replace('__', '.')}"] = tensor(
                value, "I64" if integer else "F32")
        return {key: np.asarray(value, np.float32).astype(np.float64)
                for key, value in values.items()}

    def weight(self, name, rows, cols):
        value = self.rng.standard_normal((rows, cols)).astype(np.float32)
        self.weights[name + ".weight"] = tensor(value, "F32")
        return value.astype(np.float64)

    def add(self, name, change, most=None):
        self.weighted[name] = change
        sigma = np.linalg.svd(change, compute_uv=False)[:most]
        sigma[sigma < 1e-6 * sigma[0]] = 0
        self.sigma[name], self.cost[name] = sigma, 4 * sum(change.shape)
        self.changes[name] = change

    def normal(self, *shape):
        return self.rng.standard_normal(shape) * 0.7 ** np.arange(shape[-1])

    def glora(self, name, rows, cols):
        p = self.put(name, a1__weight=0.1 * self.normal(cols, 3),
                     a2__weight=self.normal(3, cols),
                     b1__weight=self.normal(rows, 3),
                     b2__weight=self.normal(3, cols), alpha=1.5)
        w = self.weight(name, rows, cols)
        self.add(name, 0.5 * (w @ p["a1__weight"] @ p["a2__weight"] +
                              p["b1__weight"] @ p["b2__weight"]), 6)

    def oft(self, name, rows, cols):
        b = self.put(name, oft_blocks=0.3 * self.normal(rows // 4, 4, 4),
                     alpha=0.0)["oft_blocks"]
        w = self.weight(name, rows, cols)
        r = test_base.cayley(b - b.swapaxes(1, 2)).swapaxes(1, 2)
        turned = (r @ w.reshape(rows // 4, 4, cols)).reshape(rows, cols)
        self.add(name, turned - w)

    def boft(self, name, rows, cols):
        """Of one stage: in a block, even rows are in the first half."""
        b = self.put(name, oft_blocks=0.3 * self.normal(1, rows // 4, 4, 4),
                     alpha=0.0)["oft_blocks"][0]
        w = self.weight(name, rows, cols).reshape(rows // 4, 4, cols)
        order = [0, 2, 1, 3]
        turned = np.empty_like(w)
        turned[:, order] = test_base.cayley(b - b.swapaxes(1, 2)) @ w[:, order]
        self.add(name, (turned - w).reshape(rows, cols))

    def ia3(self, name, rows, cols):
        v = self.put(name, weight=0.2 * self.normal(cols), on_input=np.int64(1))
        self.add(name, self.weight(name, rows, cols) * v["weight"])

    def tlora(self, name, rows, cols):
        p = self.put(name, p_layer__weight=self.normal(rows, 3),
                     q_layer__weight=self.normal(3, cols),
                     lambda_layer=self.rng.uniform(0.5, 1, (1, 3)), alpha=3.0)
        w = self.weight(name, rows, cols)
        u, s, vt = np.linalg.svd(w, full_matrices=False)
        self.add(name, (p["p_layer__weight"] * p["lambda_layer"]) @
                 p["q_layer__weight"] - (u[:, :3] * s[:3]) @ vt[:3], 6)

    def lora(self, name, rows, cols):
        p = self.put(name, lora_up__weight=self.normal(rows, 5),
                     lora_down__weight=self.normal(5, cols), alpha=5.0)
        self.add(name, p["lora_up__weight"] @ p["lora_down__weight"], 5)

    def dora(self, name, rows, cols):
        self.lora(name, rows, cols)
        magnitude = self.put(
            name, dora_scale=self.rng.uniform(1, 2, (rows, 1)))["dora_scale"]
        w = self.weight(name, rows, cols)
        self.weighted[name] = test_base.dora_lycoris(
            w, self.changes[name], magnitude, 0, 1) - w


def test_mixed_size(suite):
    """One budget for all of them: the ranks after some steps, and no room for
    the next one."""
    source = Mixed(suite, 1)
    run = suite.run("resize", source.path, "--base", source.base, "--dry-run",
                    "--size", 1, code=support.USAGE)
    smallest = int(run.err.split(" bytes")[0].split()[-1])
    test_size.refuse(suite, source.path, smallest - 1, "--base", source.base)
    most = smallest + sum(source.cost[m] * s.size
                          for m, s in source.sigma.items())
    budgets = [*range(smallest, smallest + 500, 97),
               *range(smallest + 500, most, (most - smallest) // 30)]
    test_size.check_random(suite, source, budgets, "--base", source.base)
    test_size.check_random(suite, source, budgets[::6], "--base", source.base,
                           "--max-rank", 4, most=4)
    # What has no other form than LoRA is LoRA at any size.
    _, ranks, tensors, _, report = test_size.resize(
        suite, source.path, 10 * most, "--base", source.base)
    for name, want in source.changes.items():
        if name + ".dora_scale" in tensors:
            continue
        got = support.module_delta(tensors, name)[0]
        support.close(got, want, 1e-5 * np.abs(want).max(), name)
        require(ranks[name] <= source.sigma[name].size, "a rank above its own")


def test_mixed_several(suite):
    """The same from a decomposition that several results share."""
    source = Mixed(suite, 2)
    out, several = suite.path("out.safetensors"), suite.path("one.safetensors")
    suite.run("resize", source.path, "-o", out, "--base", source.base,
              "--size", 30000, "--force")
    suite.run("resize", source.path, "-o", f"{several}@size=30000", "-o",
              f"{suite.path('other.safetensors')}@rank=2", "--base",
              source.base, "--force")
    equal(several.read_bytes(), out.read_bytes(), "of one decomposition")


def test_mixed_as_lora(suite, liblora):
    """From Python: the same bytes; and all of it as LoRA in a size, with DoRA
    by its weights then."""
    source = Mixed(suite, 2)
    out = suite.path("out.safetensors")
    suite.run("resize", source.path, "-o", out, "--base", source.base,
              "--size", 30000, "--force")
    with liblora.open(source.path) as adapter:
        equal(adapter.resize(size=30000, base=source.base).to_bytes(),
              out.read_bytes(), "resize")
        previous = 0
        for size in (22000, 30000, 60000):
            made = adapter.convert(kind="lora", base=source.base, size=size)
            data = made.to_bytes()
            require(len(data) <= size, "size")
            require(len(data) > previous, "directions")
            previous = len(data)
            out.write_bytes(data)
            tensors = support.read_file(out)[0]
            for name, want in source.weighted.items():
                rank = tensors[name + KOHYA["down"]].shape[0]
                got = support.module_delta(tensors, name)[0]
                sigma = np.linalg.svd(want, compute_uv=False)
                error, tail = (np.linalg.norm(got - want),
                               np.linalg.norm(sigma[rank:]))
                require(error <= 1.01 * tail + 1e-6 * np.linalg.norm(want),
                        f"{name}: {error}, not {tail}")
            require(not any("dora" in name for name in tensors), "DoRA")


def test_bias_size(suite, liblora):
    """A bias that changes with the base's is counted too: by the library, as
    the program tries again with less where a file became too large."""
    rng = np.random.default_rng(3)
    name = "base_model.model." + test_base.TARGET
    weight = rng.standard_normal((40, 30)).astype(np.float32)
    bias = rng.standard_normal(40).astype(np.float32)
    vector = rng.uniform(0.5, 1.5, (40, 1)).astype(np.float32)
    path, base = suite.path("ia3.safetensors"), suite.path("b.safetensors")
    support.write_file(path, {name + ".ia3_l": tensor(vector, "F32")})
    support.write_file(base, {test_base.TARGET + ".weight":
                              tensor(weight, "F32"),
                              test_base.TARGET + ".bias": tensor(bias, "F32")})
    out = suite.path("out.safetensors")

    def size_of(**rule):
        with liblora.open(path) as adapter:
            out.write_bytes(adapter.resize(base=base, **rule).to_bytes())
        return out.stat().st_size, support.read_file(out)[0]
    sizes = [size_of(rank=k)[0] for k in range(1, 31)]
    for k, size in enumerate(sizes[:-1], 1):
        for budget in (size, sizes[k] - 1):
            got, tensors = size_of(size=budget)
            equal(got, size, f"a file of {budget}")
            down = next(t for n, t in tensors.items() if "lora_A" in n)
            equal(down.shape[0], k, "rank")
    support.close(next(t for n, t in tensors.items() if "bias" in n).array(),
                  bias * (vector[:, 0] - 1), 1e-6, "bias")


def test_large(suite):
    """Of a change that a sketch decomposes: by a rank, and by a size."""
    rng = np.random.default_rng(4)
    rows, cols, rank = 300, 400, 12
    u = np.linalg.qr(rng.standard_normal((rows, rows)))[0]
    v = np.linalg.qr(rng.standard_normal((cols, cols)))[0][:rows]
    weight = ((u * 0.8 ** np.arange(rows)) @ v).astype(np.float32)
    scales = rng.uniform(-0.2, 0.2, cols).astype(np.float32)
    name = "lora_unet_a"
    path, base = suite.path("ia3.safetensors"), suite.path("b.safetensors")
    support.write_file(path, {name + ".weight": tensor(scales, "F32"),
                              name + ".on_input": tensor(np.int64(1), "I64")})
    support.write_file(base, {name + ".weight": tensor(weight, "F32")})
    want = weight.astype(np.float64) * scales
    sigma = np.linalg.svd(want, compute_uv=False)
    out = suite.path("out.safetensors")
    for rule in (("--rank", rank),
                 ("--size", (rows + cols) * 4 * rank + 1000)):
        suite.run("resize", path, "-o", out, "--base", base, "--force", *rule)
        tensors = support.read_file(out)[0]
        equal(tensors[name + KOHYA["down"]].shape[0], rank, str(rule))
        error = np.linalg.norm(support.module_delta(tensors, name)[0] - want)
        tail = np.linalg.norm(sigma[rank:])
        require(error <= 1.01 * tail + 1e-6 * sigma[0], f"{error}, not {tail}")


def test_caps(suite):
    """A cap holds for what would be kept whole, and zeros fill it up."""
    rng = np.random.default_rng(5)
    name, (rows, cols, rank) = "lora_unet_a", (20, 12, 3)
    parts = {"a1": (cols, rank), "a2": (rank, cols), "b1": (rows, rank),
             "b2": (rank, cols)}
    parts = {k: rng.standard_normal(s).astype(np.float32)
             for k, s in parts.items()}
    weight = rng.standard_normal((rows, cols)).astype(np.float32)
    path, base = suite.path("glora.safetensors"), suite.path("b.safetensors")
    support.write_file(path, {f"{name}.{k}.weight": tensor(v, "F32")
                              for k, v in parts.items()})
    support.write_file(base, {name + ".weight": tensor(weight, "F32")})
    p = {k: v.astype(np.float64) for k, v in parts.items()}
    want = weight @ p["a1"] @ p["a2"] + p["b1"] @ p["b2"]
    sigma = np.linalg.svd(want, compute_uv=False)
    out = suite.path("out.safetensors")
    for rule, kept, written in ((("--rank", 6), 6, 6),
                                (("--max-rank", 4), 4, 4),
                                (("--rank", 8, "--max-rank", 5), 5, 5),
                                (("--rank", 10, "--pad"), 6, 10),
                                (("--rank", 6, "--module-rank", "*_a=2"), 2,
                                 2)):
        suite.run("resize", path, "-o", out, "--base", base, "--force", *rule)
        tensors = support.read_file(out)[0]
        equal(tensors[name + KOHYA["down"]].shape, (written, cols), str(rule))
        error = np.linalg.norm(support.module_delta(tensors, name)[0] - want)
        support.close(error, np.linalg.norm(sigma[kept:6]), 1e-5 * sigma[0],
                      str(rule))


def test_set(suite):
    """A whole new weight stays one, with the base and without."""
    name = "unet.a"
    path, base = suite.path("set.safetensors"), suite.path("b.safetensors")
    rng = np.random.default_rng(6)
    values = {name + ".set_weight": tensor(rng.standard_normal((4, 3)), "F32")}
    support.write_file(path, values)
    support.write_file(base, {name + ".weight":
                              tensor(rng.standard_normal((4, 3)), "F32")})
    equal(kinds_of(suite, path), {"set"}, "kind")
    for more in ([], ["--base", base]):
        out = suite.path("out.safetensors")
        suite.run("resize", path, "-o", out, "--rank", 1, "--force", *more)
        equal({n: t.data for n, t in support.read_file(out)[0].items()},
              {n: t.data for n, t in values.items()}, "tensors")


def test_table(suite, seen):
    """No kind of the table is left out: AdaLoRA and Light-LoRA have their
    resize in tests of their own."""
    text = (HERE.parent.parent / "lib" / "adapter" / "kinds" /
            "table.c").read_text("utf-8")
    table = set(re.findall(r"&lora__kind_(\w+)", text))
    require(len(table) > 10, "the table is not there")
    equal(seen | {"set", "adalora", "light"}, table, "kinds")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    liblora = bindinglib.load(suite)
    folder, cases = suite.unpack("kinds")
    seen = set()
    for entry in cases:
        if entry["operation"] == "truncate":
            continue
        with suite.case(entry["id"] + ", opened"):
            source = Source(suite, folder, entry)
            seen |= source.kinds
        check_case(suite, source)
    for test in (test_mixed_as_lora, test_bias_size):
        with suite.case(test.__name__[5:]):
            test(suite, liblora)
    for test in (test_mixed_size, test_mixed_several, test_large, test_caps,
                 test_set):
        with suite.case(test.__name__[5:]):
            test(suite)
    with suite.case("table"):
        test_table(suite, seen)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
