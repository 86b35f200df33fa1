"""Adapters of every base bound to models of every base: which rows of which
tensors each module changes must be what the catalogues of ../shared say
(skipped where absent), in the layout of the model's authors and in that of
diffusers, for every dialect; and to another base they must not fit.

Models and adapters are holes in sparse files: `bind` reads names and sizes.
"""

import argparse
import collections
import pathlib
import shutil
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import support  # noqa: E402
import test_synthetic as synthetic  # noqa: E402
from support import equal, require  # noqa: E402

DATA = support.SHARED / "data"
REAL = ("cloneofsimo--lora/analog_svd_rank4.safetensors",
        "cloneofsimo--lora/lora_disney.safetensors",
        "catundchat--stable-diffusion-v1.5-lora/pytorch_lora_weights.bin",
        "catundchat--stable-diffusion-v1.5-lora/"
        "pytorch_lora_weights.safetensors")
DIALECTS = ("kohya", "kohya-diffusers", "diffusers", "native")
# Bases that have the same layers, or some of them: names do not tell.
KIN = ({"sd15", "sd21", "sdxl"}, {"flux1_dev", "chroma"},
       {"sd3_medium", "sd35_medium", "sd35_large"},
       {"wan21_t2v_14b", "wan21_i2v_14b"})


# Models ---------------------------------------------------------------------

def write_model(make, family, components, layout, path):
    make.checkpoint(argparse.Namespace(
        catalogue=synthetic.CATALOGUES / f"{family}.tsv", dtype="F16", seed=0,
        components=components, match="", targets="everything", layout=layout,
        dry_run=False, shard_gb=0, out=str(path)))
    return path


def original_model(suite, make, family):
    """One file, of all that has a name in it."""
    rows = make.read(synthetic.CATALOGUES / f"{family}.tsv", "", "")
    unnamed = {row.comp for row in rows if row.orig == "-"}
    named = sorted({row.comp for row in rows} - unnamed)
    if not named:
        support.skip("no names of the authors' are known")
    path = suite.path(f"{family}.safetensors")
    return write_model(make, family, ",".join(named), "original", path), named


def diffusers_model(suite, make, family):
    folder = suite.path(f"{family}-pipeline")
    shutil.rmtree(folder, ignore_errors=True)
    rows = make.read(synthetic.CATALOGUES / f"{family}.tsv", "", "")
    components = sorted({row.comp for row in rows})
    for component in components:
        name = make.PREFIX[component]
        (folder / name).mkdir(parents=True)
        stem = ("diffusion_pytorch_model" if component in synthetic.BACKBONES
                else "model")
        write_model(make, family, component, "diffusers",
                    folder / name / f"{stem}.safetensors")
    return folder, components


# What is expected -----------------------------------------------------------

def row_pieces(make, row, of_target, layout):
    """(row of the module, tensor, its rows [begin, end), transposed)."""
    own = f"{make.PREFIX[row.comp]}.{row.tensor}"
    count = row.shape[0]
    if row.part == "T":
        if of_target == (layout == "diffusers"):
            return [(0, own if of_target else row.orig,
                     0, count if of_target else row.shape[1], False)]
        require(of_target, "a transposed weight of the authors'")
        return [(0, row.orig, 0, row.shape[1], True)]
    ranges, total = row.ranges() or ([(0, count)], count)
    pieces, at = [], 0
    for begin, end in ranges:
        inside = (at, at + end - begin)
        pieces.append({
            (True, True): (at, own, *inside, False),
            (True, False): (at, row.orig, begin, end, False),
            (False, True): (begin, own, *inside, False),
            (False, False): (begin, row.orig, begin, end, False)
        }[of_target, layout == "diffusers"])
        at += end - begin
    return pieces


def joined(pieces):
    """Sorted, and neighbours made one."""
    out = []
    for first, tensor, begin, end, turned in sorted(pieces):
        if out and out[-1][1] == tensor and out[-1][3] == begin and (
                out[-1][0] + out[-1][3] - out[-1][2] == first):
            out[-1] = (*out[-1][:3], end, turned)
        else:
            out.append((first, tensor, begin, end, turned))
    return out


def expected_changes(make, family, dialect, layout, components):
    """module name: pieces, of those whose model is there."""
    out = collections.defaultdict(list)
    for row in synthetic.targets(make, family, ""):
        if row.comp in components:
            name = synthetic.module_name(make, row, dialect)
            out[name] += row_pieces(make, row,
                                    synthetic.is_whole(row, dialect), layout)
    return {name: joined(pieces) for name, pieces in out.items()}


def got_changes(item):
    return joined([(c["module_row"], c["tensor"], *c["rows"], c["transposed"])
                   for c in item["changes"] if c["part"] == "weight"])


def check_sums(report):
    """No module is lost, and none is counted twice."""
    equal(sum(report["counts"].values()), len(report["items"]), "items")
    equal(len(report["items"]), report["modules"] + report["counts"]["unknown"],
          "modules")
    equal(report["bound"], report["counts"]["bound"] + report["counts"]["half"],
          "bound")


def check_all(report, family):
    check_sums(report)
    equal([item for item in report["items"] if item["state"] != "bound"][:1],
          [], "not bound")
    equal(report["bound"], report["modules"], "bound")
    equal(report["share"], 1, "share")
    equal(report["verdict"], "right", "verdict")
    equal(report["problems"], [], "problems")
    if family is not None:
        equal(report["model"]["family"], family, "family")


# Cases ----------------------------------------------------------------------

def check_changes(suite, make, family, dialect, layout, model, components):
    path = synthetic.generate(suite, make, family, dialect,
                              ",".join(components))
    expected = expected_changes(make, family, dialect, layout, components)
    if not expected:
        support.skip("trainers adapt nothing of it")
    report = suite.json("bind", path, "--base", model, "--strict")
    check_all(report, None)
    equal({item["name"] for item in report["items"]}, set(expected), "modules")
    for item in report["items"]:
        equal(got_changes(item), expected[item["name"]], item["name"])


def backbone_of(make, family):
    rows = make.read(synthetic.CATALOGUES / f"{family}.tsv", "", "")
    return ({make.PREFIX[row.comp] for row in rows} &
            set(synthetic.BACKBONES)).pop()


def check_others(suite, make, family, families):
    path = synthetic.generate(suite, make, family, "diffusers", "")
    for other in families:
        kin = any({family, other} <= names for names in KIN)
        if other == family or kin:
            continue
        report = suite.json("bind", path, "--family", other, code={0, 4})
        check_sums(report)
        if report["bound"] == report["modules"]:
            # Some transformers have layers of the same names.
            equal(report["verdict"], "unsure", f"verdict on {other}")
            continue
        bound = {item["target"].split(".")[0] for item in report["items"]
                 if item["changes"]}
        if "unet" in (backbone_of(make, family), backbone_of(make, other)):
            equal(bound & set(synthetic.BACKBONES), set(), f"bound to {other}")
        equal(report["verdict"], "wrong", f"verdict on {other}")
        equal([p["message"] for p in report["problems"]
               if p["code"] == "wrong_base"],
              [f"this adapter is for {family}, the model is {other}"], "message")
        suite.run("bind", path, "--family", other, "--strict", code=4)


def check_real(suite, name, models):
    path = DATA / name
    check_all(suite.json("bind", path, "--family", "sd15", "--strict"), "sd15")
    for model in models:
        report = suite.json("bind", path, "--base", model, "--strict")
        check_all(report, "sd15")
        equal({len(item["changes"]) for item in report["items"]}, {1}, "changes")
    for other in ("sd21", "sdxl", "flux1_dev"):
        report = suite.json("bind", path, "--family", other, code={0, 4})
        check_sums(report)
        equal(report["verdict"], "wrong", f"verdict on {other}")
        suite.run("bind", path, "--family", other, "--strict", code=4)


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    if not synthetic.GENERATOR.exists() or not synthetic.CATALOGUES.exists():
        suite.finish()
        print("no catalogues here")
        return 77
    make = synthetic.load_generator()
    families = sorted(path.stem for path in synthetic.CATALOGUES.glob("*.tsv")
                      if path.stem.islower())
    for family in families:
        for dialect in DIALECTS:
            with suite.case(f"{family}, {dialect}"):
                path = synthetic.generate(suite, make, family, dialect, "")
                check_all(suite.json("bind", path, "--family", family,
                                     "--strict"), family)
        for layout, write in (("original", original_model),
                              ("diffusers", diffusers_model)):
            with suite.case(f"{family} in the layout {layout}"):
                model, components = write(suite, make, family)
                for dialect in DIALECTS:
                    with suite.case(f"{family}, {dialect} on {layout}"):
                        check_changes(suite, make, family, dialect, layout,
                                      model, components)
        with suite.case(f"{family} and others"):
            check_others(suite, make, family, families)
    if DATA.exists():
        models = [original_model(suite, make, "sd15")[0],
                  diffusers_model(suite, make, "sd15")[0]]
        for name in REAL:
            with suite.case(name):
                check_real(suite, name, models)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
