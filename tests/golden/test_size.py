"""Ranks for a size of the whole file: the golden order of directions, and that
no file is larger than asked, or smaller than it has to be.

The order is made here from singular values of numpy: every layer starts with
rank 1, then directions follow by sigma^2 / bytes, those of value 0 never. What
a step would make of the written file is laid out with its header by the
writer of support.py, which also has to give the size of the file itself.
"""

import itertools
import sys

import numpy as np

sys.dont_write_bytecode = True
import test_ranks  # noqa: E402
from test_ranks import support  # noqa: E402
from support import KOHYA, USAGE, equal, require  # noqa: E402

SIZES = {"F32": 4, "F16": 2, "BF16": 2}


def resize(suite, source, size, *args, name="out"):
    out = suite.path(name + ".safetensors")
    report = suite.json("resize", source, "-o", out, "--force", "--size", size,
                        *args)
    support.require_writer_rules(out)
    tensors, metadata = support.read_file(out)
    ranks = {row["name"]: row["rank_out"] for row in report["modules"]}
    for module, rank in ranks.items():
        equal(tensors[module + KOHYA["down"]].shape[0], rank, module)
    return out.stat().st_size, ranks, tensors, metadata, report


def refuse(suite, source, size, *args):
    out = suite.path("refused.safetensors")
    run = suite.run("resize", source, "-o", out, "--size", size, *args,
                    code=USAGE)
    equal(len(run.err.strip().splitlines()), 1, f"lines of {run}")
    require("least" in run.err or "alone" in run.err, run.err)
    require(not out.exists(), "a file was written")


# Golden ---------------------------------------------------------------------

def golden_states(case):
    """[(ranks, data bytes)] after 0, 1, ... steps."""
    values = case["values"]
    ranks = dict.fromkeys(values["sigma"], 1)
    states = [(dict(ranks), values["data_bytes_at_rank_1"])]
    for module, rank, _, _, data in values["sequence"]:
        equal(ranks[module], rank - 1, f"sequence of {module}")
        ranks[module] = rank
        states.append((dict(ranks), data))
    return states


def check_golden(suite, folder, case):
    """Every budget from refusal to everything: the state is the last one that
    fits, by the header of the file itself."""
    source = folder / case["adapter"]
    states = golden_states(case)
    smallest = case["values"]["smallest_file_without_metadata"]
    refuse(suite, source, smallest - 1)
    seen = set()
    for budget in [*range(smallest, smallest + 900, 61),
                   *range(smallest + 900, 11000, 307)]:
        size, ranks, _, _, _ = resize(suite, source, budget)
        require(size <= budget, f"{size} bytes for {budget}")
        header = size - next(d for r, d in states if r == ranks)
        at = max(i for i, (_, d) in enumerate(states)
                 if d <= budget - header)
        # The header may grow with the next one.
        require(ranks == states[at][0] or (
            ranks == states[at - 1][0] and
            budget - header - states[at][1] < 16),
            f"{budget}: {ranks}, expected {states[at][0]}")
        seen.add(at)
    require(len(seen) > len(states) // 3, f"{len(seen)} states")
    for budget in range(4000, 9000, 701):
        for dialect in ("diffusers", "peft"):
            out = suite.path("named.safetensors")
            suite.run("resize", source, "-o", out, "--force", "--size", budget,
                      "--dialect", dialect)
            require(out.stat().st_size <= budget, f"{dialect} {budget}")
    for result in case["values"]["results"]:
        whole = result["whole_file_without_metadata"]
        size, ranks, _, _, report = resize(suite, source, whole)
        equal((size, ranks), (whole, result["ranks"]), "a size just met")
        support.close(report["totals"]["energy"], result["kept_energy"], 1e-3,
                      "kept energy")
        if result["directions"]:
            _, less, _, _, _ = resize(suite, source, whole - 1)
            equal(sum(less.values()), sum(ranks.values()) - 1,
                  "a byte too few")


# Any file -------------------------------------------------------------------

class Random:
    """An adapter of many shapes."""

    def __init__(self, suite, seed, dtype, metadata, alphas=True):
        rng = np.random.default_rng(seed)
        self.path = suite.path(f"random{seed}.safetensors")
        tensors = {"emb.unknown": support.tensor(rng.normal(size=(3, 7)))}
        self.sigma, self.cost = {}, {}
        for i in range(9):
            rows, cols, rank = (int(n) for n in rng.integers(1, 40, 3))
            rank = min(rank, 12)
            kernel = (3, 3) if i % 3 == 0 else ()
            name = f"lora_unet_m{i}"
            up = rng.normal(size=(rows, rank)) * (0.7 ** np.arange(rank))
            if i == 4:
                up *= 0
            if i == 5:
                up[:, rank // 2:] = 0
            tensors[name + KOHYA["up"]] = support.tensor(
                up.reshape(rows, rank, *(1 for _ in kernel)), dtype)
            tensors[name + KOHYA["down"]] = support.tensor(
                rng.normal(size=(rank, cols, *kernel)), dtype)
            if alphas or i % 2:
                tensors[name + KOHYA["alpha"]] = support.tensor(
                    np.array(rng.integers(1, 9) / 2.0), dtype)
            delta = test_ranks.dense(tensors, name)
            sigma = np.linalg.svd(delta, compute_uv=False)[:rank]
            sigma[sigma < 1e-13 * max(sigma[0], 1e-300)] = 0
            self.sigma[name] = sigma
            self.cost[name] = sum(delta.shape) * SIZES[dtype]
        self.tensors = tensors
        support.write_file(self.path, tensors, metadata)

    def steps(self, least=1, most=1000):
        """(module, the rank it becomes), in order."""
        found = [(-s / np.sqrt(self.cost[m]), m, k + 1)
                 for m, sigma in self.sigma.items()
                 for k, s in enumerate(sigma)
                 if s > 0 and min(least, sigma.size) <= k < most]
        return [(m, k) for _, m, k in sorted(found)]


def laid_out(tensors, metadata, changed):
    """The size of the file with other ranks for some modules, as support.py
    writes it; alphas are there already, and their size stays."""
    shapes = dict(tensors)
    for module, rank in changed.items():
        for role, axis in (("up", 1), ("down", 0)):
            old = tensors[module + KOHYA[role]]
            shape = list(old.shape)
            shape[axis] = rank
            bytes_ = len(old.data) // old.shape[axis] * rank
            shapes[module + KOHYA[role]] = support.Tensor(
                old.dtype, shape, bytes(bytes_))
    _, header, data = support.layout(shapes, metadata)
    return len(header) + data


def check_random(suite, source, budgets, *args, least=1, most=1000):
    """Just the ranks after some steps, and no room for the next one."""
    steps = source.steps(least, most)
    for budget in budgets:
        size, ranks, tensors, metadata, _ = resize(suite, source.path, budget,
                                                   *args)
        require(size <= budget, f"{size} bytes for {budget}")
        equal(laid_out(tensors, metadata, {}), size, "size by layout")
        own = {m: min(least, s.size) if s[0] else 1
               for m, s in source.sigma.items()}
        states = [dict(own)]
        for module, rank in steps:
            own[module] = rank
            states.append(dict(own))
        known = [i for i, state in enumerate(states)
                 if all(ranks[m] == k or source.sigma[m][0] == 0
                        for m, k in state.items())]
        require(known, f"{budget}: {ranks} are not ranks on the way")
        if known[0] < len(steps):
            module, rank = steps[known[0]]
            # At its full rank a layer is what it was, without an alpha that
            # it did not have.
            full = rank == source.tensors[module + KOHYA["down"]].shape[0]
            slack = 120 if full else 0
            metadata = {k: "Dynamic" if k == "ss_network_dim" else v
                        for k, v in metadata.items()}
            require(laid_out(tensors, metadata, {module: rank}) >
                    budget - slack,
                    f"{budget}: there was room for {module} of rank {rank}")


def check_property(suite):
    kohya = {"ss_network_dim": "12", "ss_network_alpha": "1",
             "sshs_model_hash": "00", "sshs_legacy_hash": "0",
             "modelspec.hash_sha256": "0x0", "note": "é\n\""}
    for seed, dtype, metadata, alphas in (
            (1, "F32", None, True), (2, "F16", kohya, True),
            (3, "BF16", kohya, True), (4, "F16", {"a": "b"}, True),
            (5, "F32", kohya, False)):
        source = Random(suite, seed, dtype, metadata, alphas)
        whole = source.path.stat().st_size
        with suite.case(f"random {seed}: never over"):
            run = suite.run("resize", source.path, "--dry-run", "--size", 1,
                            code=USAGE)
            smallest = int(run.err.split(" bytes")[0].split()[-1])
            refuse(suite, source.path, smallest - 1)
            check_random(suite, source, itertools.chain(
                range(smallest, smallest + 40, 3),
                range(smallest + 40, whole + 1000, 997)))
        with suite.case(f"random {seed}: between floor and cap"):
            check_random(suite, source, range(whole // 2, whole, 2999),
                         "--max-rank", 5, most=5)
            check_random(suite, source, range(whole * 2 // 3, whole, 2999),
                         "--min-rank", 2, least=2)
        with suite.case(f"random {seed}: metadata is counted"):
            for budget in range(whole * 2 // 3, whole, 3001):
                for args in (["--metadata", "key=" + "v" * 500],
                             ["--no-metadata"], ["--dtype", "f16"]):
                    out = suite.path("named.safetensors")
                    suite.run("resize", source.path, "-o", out, "--force",
                              "--size", budget, *args)
                    require(out.stat().st_size <= budget, f"{args} {budget}")
        with suite.case(f"random {seed}: overrides"):
            _, ranks, _, _, _ = resize(suite, source.path, whole,
                                       "--module-rank", "*m1=1",
                                       "--conv-rank", 1)
            equal([ranks[f"lora_unet_m{i}"] for i in (0, 1, 3, 6)], [1] * 4,
                  "ranks that were given")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    folder, cases = suite.unpack("size")
    for case in cases:
        with suite.case(case["id"]):
            check_golden(suite, folder, case)
    with suite.case("cases"):
        equal(len(cases), 2, "cases")
    check_property(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
