"""Every golden change by the interface of C, at the tolerance of its case; its
rows in any tiling, with the same bits; changed weights by the program on a base
of random numbers, also of kinds that need none; and saving what was saved."""

import json
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "bindings")]
import bindinglib  # noqa: E402
import support  # noqa: E402
import test_kinds  # noqa: E402
import test_real  # noqa: E402
from test_damaged import Golden  # noqa: E402
from support import require, tensor  # noqa: E402


def rows(liblora, adapter, sample, begin, end, like):
    """Rows of the change in the type of `like`, the whole of it."""
    from liblora import _adapter, _arrays, _ffi
    out = np.empty((end - begin, *like.shape[1:]), like.dtype)
    index = adapter._find(sample.prefix)
    views = [_arrays.view(sample.base[part], part)[0]
             if sample.base.get(part) is not None else None
             for part in ("weight", "bias")]
    place = (out.ctypes.data, out.nbytes, adapter._handle, index,
             _ffi.LORA_PART_WEIGHT, 0.7, _arrays.dtype_code(out.dtype), begin,
             end)
    if sample.base:
        adapter.context.call(_adapter.lib.lora_adapter_delta_base, *place,
                             *views, None)
    else:
        adapter.context.call(_adapter.lib.lora_adapter_delta, *place)
    return out


def test_tilings(liblora, sample, path):
    with liblora.open(path, config=sample.config) as adapter:
        for dtype in ("F32", "F64"):
            whole = adapter.delta(sample.prefix, 0.7, dtype, **sample.base)
            for step in (1, 3, 5, 8, len(whole)):
                starts = list(range(0, len(whole), step))
                for begin in starts[::-1]:
                    end = min(begin + step, len(whole))
                    got = rows(liblora, adapter, sample, begin, end, whole)
                    require(got.tobytes() == whole[begin:end].tobytes(),
                            f"rows {begin} to {end} in {dtype}")


def test_change(suite, liblora, sample, path, expected):
    """Without a base; then with one whose weights the program changes."""
    case = sample.case
    want = expected[sample.target + ".delta"]
    bound = test_kinds.tolerance(case, want)
    with liblora.open(path, config=sample.config) as adapter:
        for dtype in ("F32", "F64"):
            got = adapter.delta(sample.prefix, 1.0, dtype)
            support.close(got.reshape(want.shape), want, bound, dtype)
    weight = np.random.default_rng(1).standard_normal(got.shape)
    weight = weight.astype(np.float32)
    base, out = suite.path("base.safetensors"), suite.path("out.safetensors")
    tensors = {sample.prefix + ".weight": tensor(weight)}
    if sample.target + ".delta_bias" in expected:
        tensors[sample.prefix + ".bias"] = tensor(np.zeros(len(weight)))
    support.write_file(base, tensors)
    more = (["--config", path.parent / case["params"]["config"]]
            if sample.config else [])
    suite.run("delta", path, "-o", out, "--base", base, "--weights", "--force",
              "--skip-bad", *more)
    got = support.read_file(out)[0][sample.prefix + ".weight"].array()
    # The sum is rounded once more to f32.
    support.close((got - weight).reshape(want.shape), want, bound + 2.0**-24 *
                  np.abs(got).reshape(want.shape), "W'")


def test_saved(liblora, path):
    with liblora.open(path) as adapter:
        once = bytes(adapter.to_bytes())
    with liblora.open(once) as adapter:
        require(bytes(adapter.to_bytes()) == once, "saved twice")


def test_named(liblora, folder, case):
    """Modules under the names of many programs; parts of a fused weight are
    rows of its change."""
    expected = test_kinds.arrays(folder / case["expect"])
    config = None
    if "config" in case["params"]:
        config = json.loads((folder / case["params"]["config"])
                            .read_text("utf-8"))
    positional = case["operation"] == "load_positional"
    targets = case["params"].get("map", {}) if not positional else {
        name[:-len(".delta")]: {"down": name[:-len(".delta")] + ":down"}
        for name in expected if name.endswith(".delta")}
    require(targets, "nothing is expected")
    with liblora.open(folder / case["adapter"], config=config) as adapter:
        owners = {row["name"]: row["module"] for row in adapter.tensors}
        for target, entry in targets.items():
            name = owners[entry.get("down", entry.get("prefix", "") +
                                    ".lora_down.weight")]
            want = expected[target + ".delta"]
            got = adapter.delta(name, 1.0, "F64")
            begin, end = entry.get("rows", (0, len(got)))
            support.close(got[begin:end].reshape(want.shape), want,
                          test_kinds.tolerance(case, want), target)


def test_prefix(liblora, folder, case):
    """The first directions of DyLoRA, as two programs scale them."""
    expected = test_kinds.arrays(folder / case["expect"])
    with liblora.open(folder / case["adapter"]) as adapter:
        for mode, key in (("keep-alpha", ".delta"),
                          ("trained-sqrt", ".delta_trained_scale")):
            with adapter.convert(rank_prefix=case["params"]["rank"],
                                 truncate=mode) as part:
                for target, module in case["params"]["modules"].items():
                    want = expected[target + key]
                    got = part.delta(module["prefix"], 1.0, "F64")
                    support.close(got.reshape(want.shape), want,
                                  test_kinds.tolerance(case, want),
                                  f"{target}, {mode}")


def test_loaded(suite, liblora, folder, case):
    out = suite.path("loaded.safetensors")
    with liblora.open(folder / case["adapter"]) as adapter:
        out.write_bytes(adapter.to_bytes())
    test_real.same_tensors(support.read_file(out)[0],
                           support.read_file(folder / case["expect"])[0])


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    liblora = bindinglib.load(suite)
    folder, cases = suite.unpack("kinds")
    for case in cases:
        path = folder / case["adapter"]
        with suite.case(case["id"] + ", saved"):
            test_saved(liblora, path)
        if case["operation"] == "truncate":
            with suite.case(case["id"]):
                test_prefix(liblora, folder, case)
            continue
        if case["id"] == "tlora_conv3":
            continue
        for target in case["params"]["modules"]:
            sample = Golden(folder, case, target)
            with suite.case(f"{case['id']}, {target}, tilings"):
                test_tilings(liblora, sample, path)
            if case["operation"] == "delta":
                with suite.case(f"{case['id']}, {target}"):
                    test_change(suite, liblora, sample, path, test_kinds.arrays(
                        folder / case["expect"]))
    folder, cases = suite.unpack("names")
    for case in cases:
        with suite.case(case["id"]):
            test_named(liblora, folder, case)
    folder, cases = suite.unpack("load")
    for case in cases:
        with suite.case(case["id"]):
            test_loaded(suite, liblora, folder, case)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
