"""Checkpoints of torch: what `convert` without options makes of them has the
names, types, shapes and bytes that torch.load found.

The golden files are loaded as they are, and packed again with compression; the
real one of ../shared/data (skipped where absent), whose tensors test_real.py
compares with the facts, is read by every verb, and damaged.
"""

import pathlib
import sys
import zipfile

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
import test_real  # noqa: E402
from support import UNREADABLE, equal, require  # noqa: E402

REAL = "catundchat--stable-diffusion-v1.5-lora/pytorch_lora_weights.bin"

# What `info` calls the container, by the first bytes of the file.
CONTAINERS = {b"PK": "torch zip", b"\x80\x02": "torch legacy"}


def loaded(suite, path, *args):
    """(tensors of a plain copy, in its order; metadata)"""
    out = suite.path("out.safetensors")
    suite.run("convert", path, "-o", out, "--force", *args)
    support.require_writer_rules(out)
    return support.read_file(out)


def check_load(suite, folder, case):
    path = folder / case["adapter"]
    tensors, metadata = loaded(suite, path)
    expected, _ = support.read_file(folder / case["expect"])
    test_real.same_tensors(tensors, expected)
    info = suite.json("info", path)
    head = path.read_bytes()[:2]
    equal(info["container"], CONTAINERS.get(head, "safetensors"), "container")
    equal(info["bytes"], path.stat().st_size, "bytes")
    if head in CONTAINERS:
        equal(metadata, {}, "metadata")
    equal({row["name"]: (row["dtype"], row["shape"])
           for row in suite.json("keys", path)["tensors"]},
          {name: (t.dtype, list(t.shape)) for name, t in expected.items()},
          "keys")


# What `info` lists, in the order of the file: tensor, its token if it is not
# the tensor's name, text encoder; formats.md 10. None: the file's name.
EMBEDDINGS = {
    "load_ti_a1111": [("string_to_param.*", None, "")],
    "load_ti_a1111_legacy": [("string_to_param.*", None, "")],
    "load_ti_parameterdict": [("string_to_param.*", None, "")],
    "load_ti_learned_embeds": [("<cat-toy>", "<cat-toy>", "")],
    "load_ti_learned_parameter": [("<p>", "<p>", "")],
    "load_ti_sdxl": [("clip_g", None, "clip_g"), ("clip_l", None, "clip_l")],
    "load_ti_emb_params": [("emb_params", None, "")],
    "load_ti_token": [("<my-token>", "<my-token>", "")],
    "load_ti_pivotal": [("text_encoders_0", None, "text_encoders_0"),
                        ("text_encoders_1", None, "text_encoders_1")],
    "load_bundle_emb": [("bundle_emb.foo.string_to_param.*", "foo", "")],
}


def check_embeddings(suite, folder, case):
    """Embeddings are listed, said to be such, and kept beside modules."""
    path = folder / case["adapter"]
    rows = EMBEDDINGS[case["id"]]
    tensors, _ = support.read_file(folder / case["expect"])
    info = suite.json("info", path)
    equal(info["embeddings"],
          [{"token": path.stem if token is None else token,
            "shape": list(tensors[name].shape), "encoder": encoder,
            "tensor": name} for name, token, encoder in rows], "embeddings")
    require("not_an_adapter" not in [p["code"] for p in info["problems"]],
            f"problems: {info['problems']}")
    text = suite.run("info", path).out
    alone = case["id"] != "load_bundle_emb"
    equal("  embedding of " in text, alone, f"the first line: {text}")
    if not alone:
        out = suite.path("diffusers.safetensors")
        suite.run("convert", path, "-o", out, "--dialect", "diffusers")
        name = rows[0][0]
        require(support.read_file(out)[0][name].same(tensors[name]),
                "the embedding is not kept")


def check_offsets(suite, path, expected):
    """Where tensors lie in the file as they are, `keys` says where."""
    whole = path.read_bytes()
    for row in suite.json("keys", path)["tensors"]:
        tensor = expected[row["name"]]
        begin = row["offset"]
        equal(whole[begin:begin + len(tensor.data)], tensor.data,
              f"bytes at the offset of {row['name']}")


def pack_again(path, out, method):
    """The same archive by another program, with entries for folders."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w",
                                                       method) as new:
        names = old.namelist()
        top = names[0].split("/")[0]
        new.writestr(zipfile.ZipInfo(f"{top}/"), b"")
        for name in names:
            new.writestr(name, old.read(name))


def check_packed(suite, folder, case, method):
    path = folder / case["adapter"]
    if path.read_bytes()[:2] != b"PK":
        support.skip("no zip archive")
    again = suite.path("again.pt")
    pack_again(path, again, method)
    zlib = suite.json("version")["features"]["zlib"]
    if method == zipfile.ZIP_DEFLATED and not zlib:
        run = suite.run("info", again, code=UNREADABLE)
        require("no zlib" in run.err, f"zlib is not named: {run}")
        return
    tensors, _ = loaded(suite, again)
    expected, _ = support.read_file(folder / case["expect"])
    test_real.same_tensors(tensors, expected)
    suite.run("keys", again)


def check_real(suite):
    """Its storages are on a GPU. The tensors are compared by test_real.py."""
    path, _, _ = test_real.real(REAL)
    with zipfile.ZipFile(path) as archive:
        pickle, = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        require(b"cuda:0" in archive.read(pickle), "no storage on a GPU")
    tensors, metadata = loaded(suite, path)
    equal(metadata, {}, "metadata")
    check_offsets(suite, path, tensors)


def check_verbs(suite):
    """The verbs on the real file give what they give on its copy."""
    path, _, _ = test_real.real(REAL)
    copy = suite.path("copy.safetensors")
    suite.run("convert", path, "-o", copy)
    for args in (("delta",), ("resize", "--rank", "2"),
                 ("convert", "--dialect", "kohya"),
                 ("convert", "--dtype", "bf16")):
        results = []
        for source in (path, copy):
            out = suite.path("result.safetensors")
            suite.run(args[0], source, "-o", out, "--force", *args[1:])
            results.append(support.read_file(out)[0])
        test_real.same_tensors(*results)
    modules = [{m["name"]: m for m in
                suite.json("info", file, "--modules")["modules"]}
               for file in (path, copy)]
    require(modules[0] == modules[1], "modules")


def check_folder(suite, folder, case):
    """A folder of PEFT's older kind: the model in a checkpoint."""
    peft = suite.path("peft")
    peft.mkdir()
    (peft / "adapter_model.bin").write_bytes(
        (folder / case["adapter"]).read_bytes())
    (peft / "adapter_config.json").write_text("{}")
    tensors, _ = loaded(suite, peft)
    test_real.same_tensors(tensors, support.read_file(
        folder / case["expect"])[0])


def check_damage(suite):
    """A storage too large to be checked at once: `info` and `keys` read only
    names, whatever reads the values finds the damage."""
    path, _, _ = test_real.real(REAL)
    whole = bytearray(path.read_bytes())
    middle = suite.json("keys", path)["tensors"][100]["offset"]
    whole[middle + 3] ^= 0x40
    bad = suite.path("bad.bin")
    bad.write_bytes(whole)
    suite.run("info", bad)
    for args in (("check", bad), ("convert", bad, "-o", suite.path("x")),
                 ("resize", bad, "-o", suite.path("x"), "--rank", "1"),
                 ("delta", bad, "-o", suite.path("x"))):
        run = suite.run(*args, code=UNREADABLE)
        require("checksum" in run.err and "/data/" in run.err, f"place: {run}")
        require(not suite.path("x").exists(), "an output was left")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    folder, cases = suite.unpack("load")
    for case in cases:
        with suite.case(case["id"]):
            check_load(suite, folder, case)
        if case["id"] in EMBEDDINGS:
            with suite.case(f"{case['id']}, embeddings"):
                check_embeddings(suite, folder, case)
        for what, method in (("stored", zipfile.ZIP_STORED),
                             ("deflated", zipfile.ZIP_DEFLATED)):
            if case["adapter"].endswith(".safetensors"):
                continue
            with suite.case(f"{case['id']}, {what} again"):
                check_packed(suite, folder, case, method)
        if case["id"].endswith(("_ordered_metadata", "_list", "_list_legacy")):
            with suite.case(f"{case['id']}, offsets"):
                expected, _ = support.read_file(folder / case["expect"])
                check_offsets(suite, folder / case["adapter"], expected)
    with suite.case("a folder of PEFT's"):
        check_folder(suite, folder, next(
            case for case in cases if not case["adapter"].endswith(
                ".safetensors")))
    with suite.case("real: on a GPU, offsets"):
        check_real(suite)
    with suite.case("real: verbs"):
        check_verbs(suite)
    with suite.case("real: damage"):
        check_damage(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
