"""Every base in every dialect: adapters of all modules that trainers adapt by
default, named and sized by the catalogues of ../shared (skipped where absent)
and laid out by the generator there.

Each module must get the target that its catalogue row says, and the base must
be guessed, except from a text encoder alone, which several bases share. Where
one original weight is several targets, or one with its rows in another order,
the change must reach the rows that the catalogue says: each row of a small
module is another number, and `delta` shows where it went.

The tensors are holes in a sparse file, since `info` reads names and sizes only.
"""

import argparse
import collections
import importlib.util
import math
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import equal, require, tensor  # noqa: E402

GENERATOR = support.SHARED / "peers" / "make_synthetic.py"
CATALOGUES = support.SHARED / "catalogues"
FAMILIES = 19

# The generator's name of a dialect: what the program may call it.
DIALECTS = {"kohya": {"kohya", "kohya-SDXL"}, "kohya-diffusers": {"kohya"},
            "diffusers": {"diffusers"}, "diffusers-old": {"diffusers-unet"},
            "peft": {"peft"}, "native": {"comfy/native"}}
BACKBONES = ("unet", "transformer", "prior")


def write_sparse(path, items, metadata):
    """In place of the generator's writer: the same header, and zeros."""
    tensors = {name: support.Tensor(dtype, shape, b"")
               for name, dtype, shape, _ in items}
    for t in tensors.values():
        t.bytes = support.DTYPES[t.dtype][0] * math.prod(t.shape)
    support.write_sparse(path, tensors, metadata)


def load_generator():
    spec = importlib.util.spec_from_file_location("make_synthetic", GENERATOR)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_safetensors = write_sparse
    return module


def targets(make, family, component):
    rows = make.read(CATALOGUES / f"{family}.tsv", component, "")
    return make.targets(rows, "default")


def generate(suite, make, family, dialect, component):
    """The file, in a folder of its own as PEFT's has a configuration."""
    folder = suite.path("synthetic")
    folder.mkdir(exist_ok=True)
    path = folder / "adapter_model.safetensors"
    make.adapter(argparse.Namespace(
        catalogue=CATALOGUES / f"{family}.tsv", components=component, match="",
        dtype="F16", seed=0, dry_run=False, out=path, rank=1, alpha=None,
        conv_rank=0, conv_alpha=None, dialect=dialect, targets="default",
        decay=0.0, up_std=0.01, uncapped=False))
    if dialect != "peft":
        (folder / "adapter_config.json").unlink(missing_ok=True)
    return path


def module_name(make, row, dialect):
    """By the columns of the catalogue."""
    if dialect == "kohya":
        return row.kohya
    if dialect == "native":
        prefix = "diffusion_model." if row.comp in BACKBONES else ""
        return prefix + make.orig_module(row)
    if dialect == "kohya-diffusers":
        prefix = make.KOHYA_DIFFUSERS[row.comp]
        return f"{prefix}_{row.name.replace('.', '_')}"
    prefix = ("base_model.model" if dialect == "peft" else
              make.PREFIX[row.comp])
    return f"{prefix}.{row.name}"


def is_whole(row, dialect):
    """The row's module in that dialect is its target and no more."""
    if row.part == "-" or dialect not in ("kohya", "native"):
        return True
    return (dialect == "kohya" and
            row.kohya.endswith(row.name.replace(".", "_")))


def check_target(make, got, rows, dialect, what):
    component = make.PREFIX[rows[0].comp] + "."
    if len(rows) == 1 and is_whole(rows[0], dialect):
        equal(got, component + rows[0].name, what)
        return
    # The original name, less the prefix that pipelines put before a model.
    require(got.startswith(component) and
            ("." + make.orig_module(rows[0])).endswith(
                "." + got[len(component):]), f"{what}: got {got}")


def check_family(suite, make, family, dialect, component=""):
    path = generate(suite, make, family, dialect, component)
    expected = collections.defaultdict(list)
    for row in targets(make, family, component):
        expected[module_name(make, row, dialect)].append(row)
    info = suite.json("info", path, "--modules")
    equal([p for p in info["problems"] if p["severity"] != "note"], [],
          "problems")
    equal({m["name"] for m in info["modules"]}, set(expected), "modules")
    require(DIALECTS[dialect] & set(info["dialects"]),
            f"names: {info['dialects']}")
    if component in ("", *BACKBONES):
        equal(info["base"]["family"], family, "family")
    elif info["base"]["family"] != family:
        return  # several have this text encoder, as another one perhaps
    for module in info["modules"]:
        check_target(make, module["target"], expected[module["name"]], dialect,
                     module["name"])


# Rows -----------------------------------------------------------------------

def row_numbers(row, step):
    """The rows of the original that a target has, counted in `step` rows."""
    ranges, _ = row.ranges()
    return [n for begin, end in ranges
            for n in range(begin // step, end // step)]


def moved_rows(make, family):
    """original name: its rows of the catalogue, of linear layers."""
    groups = collections.defaultdict(list)
    for row in make.read(CATALOGUES / f"{family}.tsv", "", ""):
        if row.part != "-" and row.kind == "linear":
            groups[row.orig].append(row)
    return groups


def check_parts(suite, make, family, dialect):
    """Module row n is (n + 1) * (1, 2, 3), as small as units allow."""
    inputs = np.array([[1.0, 2.0, 3.0]])
    tensors, expected = {}, {}
    suffixes = ((".lora_up.weight", ".lora_down.weight") if dialect == "kohya"
                else (".lora_B.weight", ".lora_A.weight"))
    for rows in moved_rows(make, family).values():
        if any(is_whole(row, dialect) for row in rows):
            continue
        name = module_name(make, rows[0], dialect)
        step, total = 1, 5
        if rows[0].part != "T":
            total = rows[0].ranges()[1]
            step = math.gcd(total, *(n for row in rows for pair in
                                     row.ranges()[0] for n in pair))
            total //= step
        dense = np.arange(1.0, total + 1)[:, None] @ inputs
        tensors[name + suffixes[0]] = tensor(dense[:, :1])
        tensors[name + suffixes[1]] = tensor(inputs)
        for row in rows:
            target = f"{make.PREFIX[row.comp]}.{row.name}"
            expected[target] = (dense.T if row.part == "T" else
                                dense[row_numbers(row, step)])
    if not tensors:
        support.skip("no weight is several targets")
    path, out = suite.path("parts.safetensors"), suite.path("out.safetensors")
    support.write_file(path, tensors)
    suite.run("delta", path, "-o", out, "--names", "canonical", "--force")
    got, _ = support.read_file(out)
    equal(set(got), set(expected), "targets")
    for target, want in expected.items():
        support.close(got[target].array(), want, 0, target)


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    if not GENERATOR.exists() or not CATALOGUES.exists():
        suite.finish()
        print("no catalogues here")
        return 77
    make = load_generator()
    families = sorted(path.stem for path in CATALOGUES.glob("*.tsv")
                      if path.stem.islower())
    with suite.case("families"):
        equal(len(families), FAMILIES, "catalogues")
    for family in families:
        components = sorted({row.comp for row in targets(make, family, "")})
        for dialect in DIALECTS:
            for component in components if dialect == "peft" else [""]:
                with suite.case(f"{family}, {dialect} {component}".strip()):
                    check_family(suite, make, family, dialect, component)
        for dialect in ("kohya", "native"):
            with suite.case(f"rows of {family}, {dialect}"):
                check_parts(suite, make, family, dialect)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
