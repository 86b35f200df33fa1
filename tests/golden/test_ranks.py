"""Golden rank conversion: spectra, the ranks each rule chooses, and the error
of what is written, against numpy float64.

The written file is judged by its own dense weight change, computed here from
its factors, alpha included. Bounds:

  sigma        1e-10 sigma_1, the tolerance of the golden numbers
  |dW - dW_k|  tail_error[k] (1 + 1e-6) + rounding(k)

rounding(k) is what storing the factors in u-rounded numbers can add. With
dW_k = s B A, balanced, so that column i of B and row i of A have the norms b_i
and a_i with s b_i a_i = sigma_i, and each stored entry off by at most u of
itself (half a spacing t/2 where it is subnormal):

  |error| <= sum_i s ((b_i + e)(a_i + f) - b_i a_i),  e = u b_i + t sqrt(m) / 2,
                                                      f = u a_i + t sqrt(n) / 2
"""

import math
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import KOHYA, equal, require  # noqa: E402

OPTION = {"fixed": "--rank", "ratio": "--ratio", "energy": "--energy",
          "fro": "--energy", "sum": "--cumulative",
          "threshold": "--threshold", "entropy": "--effective",
          "knee": "--knee"}

# Below this distance from its limit a rule may go either way.
MARGIN = 1e-9


def rule_name(kind, value):
    return kind if value is None else f"{kind}:{value:g}"


def rule_args(kind, value):
    if value is None:
        return [OPTION[kind]]
    return [OPTION[kind], repr(value * value if kind == "fro" else value)]


def knee(sigma, slack):
    """Values that are equal but for rounding have no bend."""
    n, spread = sigma.size, sigma[0] - sigma[-1]
    if n < 3 or spread <= 1e-12 * sigma[0]:
        return n, n
    below = 1 - np.arange(n) / (n - 1) - (sigma - sigma[-1]) / spread
    near = np.flatnonzero(below >= below.max() - slack)
    return 1 + int(near[0]), 1 + int(near[-1])


def ranks_of(kind, value, sigma, slack):
    """(least, greatest) rank the rule may give when it is read `slack` away
    from its limit; equal for slack 0. The definitions of the golden README;
    0 for a zero layer."""
    if sigma.size == 0 or sigma[0] == 0:
        return 0, 0
    if kind == "fixed":
        return (min(value, sigma.size),) * 2
    if kind in ("ratio", "threshold"):
        limit = sigma[0] / value if kind == "ratio" else value
        return tuple(int(np.sum(sigma > limit * (1 + side * slack)))
                     for side in (1, -1))
    if kind == "entropy":
        q = sigma[sigma > 0] / sigma.sum()
        effective = math.exp(-float(np.sum(q * np.log(q))))
        return tuple(math.ceil(effective * (1 - side * max(slack, 1e-12)))
                     for side in (1, -1))
    if kind == "knee":
        return knee(sigma, slack)
    share = value * value if kind == "fro" else value
    sums = np.cumsum(sigma if kind == "sum" else sigma * sigma)
    return tuple(1 + int(np.sum(sums[:-1] < (share - side * slack) * sums[-1]))
                 for side in (1, -1))


def rounding(sigma, module, tensors):
    """See the head of this file; s, u, and t as the file has them."""
    up = tensors[module + KOHYA["up"]]
    down = tensors[module + KOHYA["down"]]
    scale = abs(support.module_scale(tensors, module))
    u = max(support.ROUNDOFF[up.dtype], support.ROUNDOFF[down.dtype])
    t = max(support.TINY[up.dtype], support.TINY[down.dtype])
    norm = np.sqrt(sigma / scale)
    e = u * norm + t / 2 * math.sqrt(up.shape[0])
    f = u * norm + t / 2 * math.sqrt(math.prod(down.shape[1:]))
    return float(scale * np.sum((norm + e) * (norm + f) - norm * norm))


def dense(tensors, module):
    return support.flat(support.module_delta(tensors, module)[0])


class Source:
    """A golden file with its spectra."""

    def __init__(self, folder, case):
        self.path = folder / case["adapter"]
        self.tensors, self.metadata = support.read_file(self.path)
        self.expected = {name: t.array() for name, t in
                         support.read_file(folder / case["expect"])[0].items()}
        self.values = case["values"]
        self.best = case["params"]["best"]
        self.modules = list(self.values)

    def sigma(self, module):
        return self.expected[module + ".sigma"]

    def rank(self, module):
        return self.values[module]["old_rank"]

    def keys(self, module):
        return [k for k in self.tensors if k.startswith(module + ".")]

    def is_zero(self, module):
        return self.sigma(module)[0] == 0

    def check_formula(self):
        """The test's own numbers are the golden ones."""
        for module in self.modules:
            delta = dense(self.tensors, module)
            want = self.expected[module + ".delta"]
            top = self.sigma(module)[0]
            support.close(delta, want, 1e-12 * max(top, 1e-300), module)
            # LAPACK underflows on the smallest layers unless they are scaled.
            factor = top if top else 1.0
            own = np.linalg.svd(delta / factor, compute_uv=False) * factor
            support.close(own, self.sigma(module), 1e-10 * top, module)

    def allowed(self, module, kind, value):
        """Ranks the rule may choose; also checks the golden one against the
        definition. The golden knee of equal values is one of their rounding."""
        golden = self.values[module]["rules"][rule_name(kind, value)]
        least, greatest = ranks_of(kind, value, self.sigma(module), MARGIN)
        noise = kind == "knee" and least == self.sigma(module).size
        require(least <= golden["rank"] <= greatest or noise,
                f"definition of {kind}:{value} on {module}: {least} to "
                f"{greatest}, golden {golden}")
        if golden["margin"] >= MARGIN and not noise:
            equal((least, greatest), (golden["rank"],) * 2, f"{kind} {module}")
        return least, greatest


def resize(suite, source, *args, name="out"):
    out = suite.path(name + ".safetensors")
    report = suite.json("resize", source, "-o", out, "--force", *args)
    support.require_writer_rules(out)
    return report, support.read_file(out)[0]


def check_sigma(row, sigma):
    """As many as the factors can have, the rest of the golden ones is 0."""
    got = np.array(row["sigma"], dtype=np.float64)
    require(row["rank_out"] <= got.size <= sigma.size or not sigma[0],
            f"{row['name']}: {got.size} singular values")
    full = np.zeros(max(sigma.size, got.size))
    full[:got.size] = got
    support.close(full[:sigma.size], sigma, 1e-10 * sigma[0],
                  f"sigma of {row['name']}")
    require(np.all(np.diff(got) <= 0), f"{row['name']}: sigma not sorted")


def check_written(source, row, tensors):
    """Rank, alpha, error, best approximation and the reported numbers."""
    module, rank = row["name"], row["rank_out"]
    up, down = (tensors[module + KOHYA[r]] for r in ("up", "down"))
    old = source.tensors[module + KOHYA["down"]]
    equal(down.shape, (rank,) + old.shape[1:], f"shape of {module} down")
    equal(up.shape[:2], (source.tensors[module + KOHYA["up"]].shape[0], rank),
          f"shape of {module} up")
    equal({up.dtype, down.dtype}, {old.dtype}, f"dtype of {module}")
    alpha = tensors.get(module + KOHYA["alpha"])
    if alpha is not None or rank != row["rank_in"]:  # else as it was
        value = float(alpha.array())
        require(0 < value < math.inf, f"alpha of {module}: {value}")

    sigma = source.sigma(module)
    want = source.expected[module + ".delta"]
    got = dense(tensors, module)
    slack = rounding(sigma[:rank], module, tensors)
    # Norms by way of a scale, as squares of the smallest layers underflow.
    unit = sigma[0] if sigma[0] else 1.0
    tail = source.expected[module + ".tail_error"]
    tail = tail[rank] if rank < tail.size else 0.0
    error = unit * np.linalg.norm((got - want) / unit)
    require(error <= tail * (1 + 1e-6) + slack,
            f"{module} rank {rank}: error {error:g}, best {tail:g}, rounding "
            f"{slack:g}")
    best = source.expected.get(f"{module}.best{rank}")
    if best is not None and rank in source.best:
        apart = unit * np.linalg.norm((got - best) / unit)
        require(apart <= slack + 1e-9 * unit * math.sqrt(sigma.size),
                f"{module} is not the best of rank {rank}: {apart:g}")
    check_report(source, row, error, slack)


def check_report(source, row, error, slack):
    """Energy and error as reported against what was measured."""
    module = row["name"]
    sigma = source.sigma(module)
    unit = sigma[0] if sigma[0] else 1.0
    total = float(np.sum((sigma / unit) ** 2))
    if total == 0:
        equal([row[k] for k in ("energy", "frobenius", "error", "sigma_1",
                                "sigma_r", "stable_rank", "effective_rank")],
              [1, 1, 0, 0, 0, 0, 0], f"zero layer {module}")
        return
    values = source.values[module]
    support.close(row["sigma_1"], sigma[0], 1e-10 * unit, "sigma_1")
    kept = sigma[min(row["rank_out"], sigma.size) - 1]
    support.close(row["sigma_r"], kept, 1e-10 * unit, "sigma_r")
    # A spectrum that is off by 1e-10 sigma_1 in each of n values: n times that
    # in the sum of squares, and n ln n times in the entropy.
    for name, bound in (("stable_rank", 1e-9), ("effective_rank", 1e-7)):
        support.close(row[name], values[name], bound * sigma.size,
                      f"{name} of {module}")
    support.close(row["frobenius"], math.sqrt(max(row["energy"], 0)), 1e-15,
                  f"frobenius of {module}")
    norm = unit * math.sqrt(total)
    support.close(row["error"], error, 1e-6 * error + 1e-7 * norm,
                  f"reported error of {module}")
    kept = float(np.sum((sigma[:row["rank_out"]] / unit) ** 2)) / total
    measured = 1 - (error / norm) ** 2
    # Rounding is no part of the tail: 2 <tail, round> + |round|^2.
    bound = (2 * error * slack + slack * slack) / norm**2 + 1e-9
    support.close(row["energy"], measured, bound, f"energy of {module}")
    support.close(row["energy"], kept, bound, f"kept energy of {module}")


def check_zero(module, tensors, rank):
    """A zero layer stays, with the rank asked for, and stays zero."""
    down = tensors[module + KOHYA["down"]]
    equal(down.shape[0], rank, f"rank of the zero layer {module}")
    require(not np.any(dense(tensors, module)), f"{module} is zero no more")


def check_rule(suite, source, kind, value):
    ranges = {m: source.allowed(m, kind, value) for m in source.modules}
    report, tensors = resize(suite, source.path, *rule_args(kind, value))
    equal(sorted(r["name"] for r in report["modules"]), sorted(ranges),
          "modules")
    for row in report["modules"]:
        module = row["name"]
        old = source.rank(module)
        equal(row["rank_in"], old, f"rank_in of {module}")
        # A rule that counts rounding noise of the dense spectrum asks for
        # more than the factors have; one that keeps nothing leaves rank 1.
        least, greatest = (min(max(1, r), old) for r in ranges[module])
        if source.is_zero(module) and kind == "fixed" and value >= old:
            greatest = old  # not lowered: it may keep its bytes
        require(least <= row["rank_out"] <= greatest,
                f"{rule_name(kind, value)} on {module}: rank {row['rank_out']}, golden "
                f"{source.values[module]['rules'][rule_name(kind, value)]}")
        check_sigma(row, source.sigma(module))
        check_written(source, row, tensors)
        if source.is_zero(module):
            check_zero(module, tensors, row["rank_out"])
        elif row["rank_out"] == old:
            for key in source.keys(module):
                require(tensors[key].same(source.tensors[key]),
                        f"{key} changed although its rank stays")


def check_identity(suite, source, rank):
    """Resizing to the rank a file has, or more, changes no byte of a layer
    that can have that rank."""
    _, tensors = resize(suite, source.path, "--rank", rank)
    for key, tensor in source.tensors.items():
        module = key.split(".")[0]
        if source.is_zero(module) or \
                source.rank(module) > source.sigma(module).size:
            continue
        require(tensors[key].same(tensor), f"{key} changed at rank {rank}")


# Options around the rules ---------------------------------------------------

def expected_ranks(source, module, rule, low=1, high=None):
    """What a rule gives between a floor and a cap, within what there is. A
    zero layer has rank 1, or what is asked for at least, or its own rank where
    that is not above a fixed one."""
    old, sigma = source.rank(module), source.sigma(module)
    if source.is_zero(module):
        whole = rule[0] == "fixed" and rule[1] >= old
        return {1, min(low, old), old if whole else 1}
    rank = max(ranks_of(*rule, sigma, 0)[0], low)
    return {max(1, min(rank, high or rank, old, sigma.size))}


def check_ranks(suite, source, args, expected):
    report, tensors = resize(suite, source.path, *args)
    for row in report["modules"]:
        require(row["rank_out"] in expected(row["name"]),
                f"{' '.join(map(str, args))}: rank of {row['name']}: got "
                f"{row['rank_out']}, expected {expected(row['name'])}")
        check_written(source, row, tensors)


def is_conv(source, module):
    """k x k: a 1 x 1 convolution counts as linear."""
    return math.prod(source.values[module]["shape"][2:]) > 1


def check_options(suite, source):
    def rank(rule, **limits):
        return lambda m: expected_ranks(source, m, rule, **limits)

    with suite.case(f"{source.path.stem} --max-rank"):
        check_ranks(suite, source, ["--energy", 0.99, "--max-rank", 3],
                    rank(("energy", 0.99), high=3))
    with suite.case(f"{source.path.stem} --min-rank"):
        check_ranks(suite, source, ["--energy", 0.5, "--min-rank", 4],
                    rank(("energy", 0.5), low=4))
    with suite.case(f"{source.path.stem} --conv-rank"):
        check_ranks(suite, source, ["--rank", 6, "--conv-rank", 2],
                    lambda m: expected_ranks(
                        source, m, ("fixed", 2 if is_conv(source, m) else 6)))
    with suite.case(f"{source.path.stem} --module-rank"):
        first, last = source.modules[0], source.modules[-1]
        args = ["--rank", 4, "--module-rank", "*=3", "--module-rank",
                f"{first}=2", "--module-rank", f"?{last[1:]}=1"]
        want = {first: 2, last: 1}
        check_ranks(suite, source, args, lambda m: expected_ranks(
            source, m, ("fixed", want.get(m, 3))))


def check_pad(suite, source, rank):
    """--pad gives every layer just the rank, with the same weight change."""
    report, tensors = resize(suite, source.path, "--rank", rank, "--pad")
    for row in report["modules"]:
        module = row["name"]
        equal(row["rank_out"], rank, f"padded rank of {module}")
        if source.is_zero(module):
            check_zero(module, tensors, rank)
            continue
        down = tensors[module + KOHYA["down"]]
        up = tensors[module + KOHYA["up"]]
        equal((down.shape[0], up.shape[1]), (rank, rank), f"ranks of {module}")
        kept = min(rank, source.sigma(module).size)
        sigma = source.sigma(module)
        slack = rounding(sigma[:kept], module, tensors)
        tail = source.expected[module + ".tail_error"][kept]
        delta = dense(tensors, module) - source.expected[module + ".delta"]
        error = sigma[0] * np.linalg.norm(delta / sigma[0])
        require(error <= tail * (1 + 1e-6) + slack,
                f"{module} padded to {rank}: error {error:g}, best {tail:g}, "
                f"rounding {slack:g}")


def check_tucker(suite, folder, case):
    """The core is multiplied out: the result has none, and is the best of its
    rank. Only the Tucker layer of the file; the other has a DoRA magnitude."""
    module = "lora_unet_t"
    tensors, _ = support.read_file(folder / case["adapter"])
    expected = {n: t.array() for n, t in
                support.read_file(folder / case["expect"])[0].items()}
    path = suite.path("tucker.safetensors")
    support.write_file(path, {n: t for n, t in tensors.items()
                              if n.startswith(module + ".")})
    sigma = expected[module + ".sigma"]
    support.close(dense(tensors, module), expected[module + ".delta"],
                  1e-12 * sigma[0], "formula")
    report, got = resize(suite, path, "--rank", case["params"]["rank"])
    equal(set(got), {module + KOHYA[r] for r in ("down", "up", "alpha")},
          "tensors")
    row = support.one(report["modules"], "name", module)
    equal(row["rank_out"], 2, "rank")
    check_sigma(row, sigma)
    equal(got[module + KOHYA["down"]].shape, (2, 9, 3, 3), "shape of down")
    equal(got[module + KOHYA["up"]].shape, (12, 2, 1, 1), "shape of up")
    apart = np.linalg.norm(dense(got, module) - expected[module + ".best2"])
    slack = rounding(sigma[:2], module, got)
    require(apart <= slack + 1e-9 * sigma[0],
            f"best of rank 2: off by {apart:g}, rounding {slack:g}")


def tucker(rng, out, inner, outer, cols, kernel):
    """Tensors of a Tucker module whose directions fade."""
    fade = 0.6 ** np.arange(outer)
    parts = {"up": rng.normal(size=(out, outer, *(1,) * len(kernel))),
             "mid": rng.normal(size=(outer, inner, *kernel)),
             "down": rng.normal(size=(inner, cols, *(1,) * len(kernel))),
             "alpha": np.array(inner * 0.75)}
    parts["up"] *= fade.reshape(1, -1, *(1,) * len(kernel))
    return parts


def higher_order(delta, rank):
    """The truncated higher-order SVD, and the two sides' singular values."""
    tensor = delta.reshape(delta.shape[0], delta.shape[1], -1)
    first, s1, _ = np.linalg.svd(support.flat(tensor), full_matrices=False)
    other = tensor.transpose(1, 0, 2)
    second, s2, _ = np.linalg.svd(support.flat(other), full_matrices=False)
    p, q = (u[:, :rank] @ u[:, :rank].T for u in (first, second))
    return np.einsum("ab,bcx,cd->adx", p, tensor, q), s1, s2


def check_keep_core(suite, seed):
    """Against numpy, for wide, narrow and uneven cores."""
    rng = np.random.default_rng(seed)
    shapes = [(20, 6, 6, 15, (3, 3)), (12, 5, 5, 30, (1, 3)),
              (9, 4, 7, 11, (3, 3)), (14, 8, 8, 3, (3, 3)),
              (2, 6, 6, 10, (2, 2)), (10, 7, 5, 10, (3, 3))]
    dtype = ("F32", "BF16")[seed % 2]
    tensors = {}
    for i, shape in enumerate(shapes):
        for role, values in tucker(rng, *shape).items():
            tensors[f"lora_unet_m{i}{KOHYA[role]}"] = support.tensor(
                values, dtype)
    path = suite.path("cores.safetensors")
    support.write_file(path, tensors)
    for args, kind, value in ((["--rank", 3], "fixed", 3),
                              (["--energy", 0.9], "energy", 0.9),
                              (["--ratio", 4], "ratio", 4),
                              (["--rank", 1], "fixed", 1)):
        report, got = resize(suite, path, "--keep-core", *args)
        for i, (out, inner, outer, cols, kernel) in enumerate(shapes):
            name = f"lora_unet_m{i}"
            delta = support.module_delta(tensors, name)[0]
            _, s1, s2 = higher_order(delta, 1)
            count = min(s1.size, outer)
            s2 = np.pad(s2, (0, count))[:count]
            larger = np.maximum(s1[:count], s2)
            rank = max(1, ranks_of(kind, value, larger, 0)[0])
            row = support.one(report["modules"], "name", name)
            equal(row["rank_out"], rank, f"{args} rank of {name}")
            if rank == outer:
                for role in ("up", "mid", "down"):
                    require(got[name + KOHYA[role]].same(
                        tensors[name + KOHYA[role]]), f"{name} {role}")
                continue
            equal([got[name + KOHYA[r]].shape for r in ("up", "mid", "down")],
                  [(out, rank) + (1,) * len(kernel), (rank, rank) + kernel,
                   (rank, cols) + (1,) * len(kernel)], f"shapes of {name}")
            made = support.module_delta(got, name)[0]
            want = higher_order(delta, rank)[0].reshape(delta.shape)
            # Three roundings, each of a share u of three factors whose
            # absolute values multiply to at most rank sigma_1 a direction.
            slack = 4 * support.ROUNDOFF[dtype] * s1[0] * rank * rank
            apart = np.linalg.norm(made - want)
            require(apart <= slack, f"{args} {name}: off by {apart:g}, "
                    f"rounding {slack:g}")
            support.close(row["error"], np.linalg.norm(made - delta),
                          1e-7 * np.linalg.norm(delta), f"error of {name}")


def check_core_options(suite):
    """Zero layers, negative scales, padding, other types, sizes."""
    rng = np.random.default_rng(9)
    tensors = {}
    for i in range(3):
        for role, values in tucker(rng, 8, 4, 4, 6, (3, 3)).items():
            values = values * (-1 if role == "alpha" and i == 1 else 1)
            values = values * (0 if role == "mid" and i == 2 else 1)
            tensors[f"lora_unet_m{i}{KOHYA[role]}"] = support.tensor(values)
    path = suite.path("cores.safetensors")
    support.write_file(path, tensors)
    for args, rank in ((["--rank", 2], 2), (["--rank", 6, "--pad"], 6),
                       (["--rank", 2, "--dtype", "f16"], 2)):
        _, got = resize(suite, path, "--keep-core", *args)
        for i in range(2):
            name = f"lora_unet_m{i}"
            delta = support.module_delta(tensors, name)[0]
            made = support.module_delta(got, name)[0]
            want = higher_order(delta, rank)[0].reshape(delta.shape)
            u = support.ROUNDOFF["F16" if "f16" in args else "F32"]
            norm = np.linalg.norm(delta)
            support.close(np.linalg.norm(made - want), 0, 64 * u * norm, name)
            equal(got[name + KOHYA["mid"]].shape, (rank, rank, 3, 3), name)
            require(float(got[name + KOHYA["alpha"]].array()) > 0, "alpha")
        require(not np.any(support.module_delta(got, "lora_unet_m2")[0]),
                "zero no more")
    sizes = {}
    for size in range(1700, path.stat().st_size, 107):
        out = suite.path("out.safetensors")
        suite.run("resize", path, "-o", out, "--force", "--keep-core",
                  "--size", size)
        require(out.stat().st_size <= size, f"{out.stat().st_size}, {size}")
        sizes[out.stat().st_size] = size
    require(len(sizes) >= 4, sizes)


def check_refused(suite, source):
    """Values no rule can have are errors of usage, and nothing is written."""
    out = suite.path("refused.safetensors")
    for args in ([], ["--rank", 0], ["--rank", -1], ["--rank", "x"], ["--rank"],
                 ["--energy", 1.5], ["--energy", "nan"], ["--ratio", 0],
                 ["--threshold", -1], ["--cumulative", 2],
                 ["--effective", "--knee"], ["--rank", 4, "--knee"],
                 ["--effective=1"], ["--knee", "--pad"],
                 ["--rank", 4, "--no-such-option"],
                 ["--rank", 4, "--module-rank", "nothing"],
                 ["--size", 0], ["--size", "lots"], ["--size", -5],
                 ["--size", "1 MB"], ["--size", "1e3"], ["--size", "nan"],
                 ["--size", "99999999TB"], ["--size", 100],
                 ["--size", "1MB", "--pad"], ["--size", "1MB", "--rank", 4],
                 ["--global-threshold", -1],
                 ["--global-threshold", 1, "--conv-rank", 2],
                 ["--global-threshold", 1, "--module-rank", "*=2"],
                 ["--rank", 4, "--split", "down"],
                 ["--energy", 0.5, "--kohya-count", "--lycoris-count"]):
        run = suite.run("resize", source.path, "-o", out, *args, code=2)
        equal(len(run.err.strip().splitlines()), 1, f"lines of {run}")
        require(not out.exists(), f"{args} wrote a file")


def check_several(suite, source):
    """Several files of one decomposition are those of as many runs."""
    rules = (["--rank", 3], ["--energy", 0.9], ["--knee"], ["--effective"],
             ["--size", "20kB"], ["--global-threshold", 0.5],
             ["--cumulative", 0.8], ["--ratio", 4])
    outs, targets = [], []
    for i, rule in enumerate(rules):
        resize(suite, source.path, *rule, name=f"single{i}")
        outs.append(suite.path(f"m@{i}"))
        text = "=".join(str(part) for part in rule).removeprefix("--")
        targets += ["-o", f"{outs[i]}@{text}"]
    plain = suite.path("plain")
    rows = suite.json("resize", source.path, *targets, "-o", plain,
                      "--threshold", 0.5)
    equal(len(rows), len(rules) + 1, "reports")
    for i, out in enumerate(outs):
        require(out.read_bytes() ==
                suite.path(f"single{i}.safetensors").read_bytes(), rules[i])
    require(plain.read_bytes() == outs[5].read_bytes(), "the general rule")
    text = suite.run("resize", source.path, "--force", *targets[:4]).out
    for out in outs[:2]:
        require(f"{out}\n" in text, f"{out} is not named in\n{text}")


def check_several_refused(suite, source):
    """And nothing is written, not even what stands before the wrong one."""
    good = suite.path("good")
    for args in (["@rank=0"], ["@rank"], ["@rank="], ["@rank=x"],
                 ["@energy=2"], ["@knee=3"], ["@size=much"], ["@size=10"]):
        suite.run("resize", source.path, "-o",
                  f"{suite.path('wrong')}{args[0]}", code=2)
    for args in (["-o", good], ["-o", f"{good}@rank=2", "--rank", 3],
                 ["-o", f"{good}@rank=2", "-o", f"{good}@rank=3"],
                 ["-o", f"{good}@rank=2", "-o", "@rank=3"],
                 ["-o", f"{good}@rank=2", "-o", f"{good}2@rank=0"],
                 ["-o", f"{good}@rank=2", "-o", f"{good}2"],
                 ["-o", f"{good}@energy=0.5", "--pad"],
                 ["-o", f"{good}@global-threshold=1", "--conv-rank", 1],
                 ["-o", f"{good}@other=2"]):
        suite.run("resize", source.path, *args, code=2)
        require(not good.exists(), f"{args} wrote a file")
    suite.run("resize", source.path, "-o", f"{good}@rank=2", "-o",
              f"{suite.path('nowhere')}/x@rank=1", code=1)
    require(not good.exists(), "a file before one that cannot be")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    folder, cases = suite.unpack("ops")
    for case in cases:
        if case["id"] == "peer.tucker_dora":
            with suite.case(case["id"]):
                check_tucker(suite, folder, case)
            continue
        if case["operation"] != "rank_conversion":
            continue
        source = Source(folder, case)
        with suite.case(f"{source.path.stem} formula"):
            source.check_formula()
        for kind, value in case["params"]["rules"]:
            if kind in OPTION:
                with suite.case(f"{source.path.stem} {rule_name(kind, value)}"):
                    check_rule(suite, source, kind, value)
        for rank in (16, 4096):
            with suite.case(f"{source.path.stem} identity at rank {rank}"):
                check_identity(suite, source, rank)
        for rank in (1, 3, 20):
            with suite.case(f"{source.path.stem} --pad {rank}"):
                check_pad(suite, source, rank)
        check_options(suite, source)
    for seed in range(4):
        with suite.case(f"--keep-core {seed}"):
            check_keep_core(suite, seed)
    with suite.case("--keep-core with other options"):
        check_core_options(suite)
    with suite.case("several at once"):
        check_several(suite, source)
    with suite.case("several refused"):
        check_several_refused(suite, source)
    with suite.case("rules out of range"):
        check_refused(suite, source)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
