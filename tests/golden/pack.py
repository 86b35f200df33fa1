"""Make the packs of this folder from the golden vectors they are part of.

    python3 tests/golden/pack.py --shared DIR [--out DIR] [--check]

Each pack is a zip file with the original files, unchanged, and `cases.json`,
the entries of the original list that concern them. Times and attributes in the
zip are fixed: the same input and the same zlib give the same bytes. --check
compares the contents with the packs that are there and writes nothing.
"""

import argparse
import csv
import io
import json
import pathlib
import re
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent

# Kinds whose weight change the library computes so far, by the case's id.
KINDS = ("kohya_lora_", "locon_", "loha_", "lokr_", "dylora_", "full_", "norm_",
         "peft_lora_", "peft_loha_", "peft_lokr_", "ia3_", "glora_",
         "peft_ia3_", "dora_locon_", "dora_loha_", "dora_lokr_", "tlora_",
         "oft_", "boft_", "peft_oft_", "peft_boft_")
NAMES = ("names_sd1_", "names_sdxl_", "names_flux_", "load_cloneofsimo")
OPERATIONS = ("delta", "patched_weight", "truncate", "same_as",
              "load_positional")

LIGHT = ("rng_stream", "rng_orthogonal", "rng_draw_order", "light_expand",
         "light_expand_regen")

# Of what other tools made of ranks only the numbers are used.
COUNTS = ("rank_conversion_kohya", "extract_lycoris")

# One megabyte of random bytes; the test makes a file of that size itself.
TOO_LARGE = ("hash_legacy_window",)


def load(folder, name="cases.json"):
    return json.loads((folder / name).read_text("utf-8"))


def files_of(case):
    """The files a case names."""
    expect = None if case["operation"] in COUNTS else case.get("expect")
    names = [case.get("adapter"), case.get("base"), expect,
             *(case["params"].get(name) for name in
               ("config", "metadata_file", "tuned"))]
    return {name for name in names if name}


def select(cases, prefixes, operations):
    return [case for case in cases if case["id"].startswith(prefixes)
            and case["operation"] in operations]


def rank_cases(cases):
    """Rank conversion by the formula, and the ranks that other tools chose; of
    Tucker with DoRA only the former is used, but the file stays whole."""
    return [case for case in cases if case["operation"] == "rank_conversion"
            or case["operation"] in COUNTS]


# Layers that adapters have factors for.
LAYERS = ("linear", "conv1d", "conv2d", "conv3d")


def catalogue_rows(path):
    """Of each sort of original weight the first one, and for every one of these
    the rows of all layers that are cut from it."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t",
                                              quoting=csv.QUOTE_NONE)
                if row["kind"] in LAYERS]
    weights = {}
    for row in rows:
        name = row["original"] if row["original"] != "-" else row["diffusers"]
        weights.setdefault((row["component"], name), []).append(row)
    chosen = {}
    for (component, name), parts in weights.items():
        sort = (component, re.sub(r"\d+", "#", name),
                tuple((p["kind"], p["part"], p["kohya_use"]) for p in parts))
        chosen.setdefault(sort, parts)
    return [row for parts in chosen.values() for row in parts]


def catalogues(folder):
    """(families, {file: bytes}): the columns of the catalogues that names and
    rows are read from."""
    columns = ("component", "kind", "diffusers", "original", "part", "kohya",
               "shape")
    files = {}
    for path in sorted(folder.glob("[a-z]*.tsv")):
        text = io.StringIO()
        table = csv.DictWriter(text, columns, delimiter="\t",
                               lineterminator="\n", extrasaction="ignore",
                               quoting=csv.QUOTE_NONE, quotechar=None)
        table.writeheader()
        table.writerows(catalogue_rows(path))
        files[path.name] = text.getvalue().encode("utf-8")
    return [name.removesuffix(".tsv") for name in files], files


def packs(shared):
    """name: (cases, {file: bytes})"""
    kinds, ops, more = (shared / "golden" / name for name in
                        ("kinds", "ops", "more"))
    kind_cases, op_cases = load(kinds), load(ops)
    plain = {
        "kinds": (kinds, select(kind_cases, KINDS, OPERATIONS)),
        "layers": (kinds, [c for c in kind_cases if c["operation"] in
                           ("forward", "backward")]),
        "names": (kinds, select(kind_cases, NAMES, OPERATIONS)),
        "light": (kinds, select(kind_cases, ("light_",), LIGHT)),
        "load": (kinds, select(kind_cases, ("load_",), ("load",))),
        "ops": (ops, rank_cases(op_cases)),
        "size": (more, [c for c in load(more)
                        if c["operation"] == "resize_budget"]),
        "dora": (more, [c for c in load(more)
                        if c["operation"] == "resize_dora"]),
        "hashes": (ops, [c for c in op_cases
                         if c["operation"] == "hashes_and_metadata"
                         and c["id"] not in TOO_LARGE]),
    }
    result = {}
    for name, (folder, cases) in plain.items():
        files = set().union(*map(files_of, cases))
        result[name] = (cases, read(folder, files))
    result["extract"] = extraction(ops, op_cases, shared / "golden/more")
    bad = load(ops / "bad", "bad.json")
    result["bad"] = (bad, read(ops / "bad", {case["file"] for case in bad}))
    result["targets"] = catalogues(shared / "catalogues")
    return result


def extraction(ops, op_cases, more):
    """Pairs of checkpoints, and the numbers in the cases; not the arrays."""
    pairs = [c for c in op_cases if c["operation"].startswith("extract")]
    floors = [c for c in load(more) if c["operation"] == "extract_noise_floor"]
    files = {}
    for folder, cases in ((ops, pairs), (more, floors)):
        files.update(read(folder, {name for c in cases for name in (
            c["base"] or c["adapter"], c["params"]["tuned"])}))
    return pairs + floors, files


def read(folder, files):
    return {name: (folder / name).read_bytes() for name in files}


def pack(cases, files):
    """The bytes of one zip file."""
    members = dict(files)
    text = json.dumps(cases, indent=0, sort_keys=True, ensure_ascii=False)
    members["cases.json"] = text.encode("utf-8") + b"\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, members[name], compresslevel=9)
    return buffer.getvalue()


def contents(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    stale = []
    for name, parts in packs(args.shared).items():
        data = pack(*parts)
        path = args.out / f"{name}.zip"
        if not args.check:
            path.write_bytes(data)
        elif not path.exists() or contents(path.read_bytes()) != contents(data):
            stale.append(path.name)
        print(f"{path.name}: {len(parts[0])} cases, {len(parts[1])} files, "
              f"{len(data)} bytes")
    if stale:
        sys.exit(f"differ from the originals: {', '.join(stale)}")


if __name__ == "__main__":
    main()
