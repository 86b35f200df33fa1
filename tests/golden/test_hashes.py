"""Hashes by which sites know a file: the golden ones of sd-scripts, and any
file against hashlib and zlib. Metadata must come back as it was written.
"""

import hashlib
import json
import pathlib
import sys
import zlib

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import UNREADABLE, equal, require, skip, tensor  # noqa: E402


# Of the golden files, by the Python package of BLAKE3's authors.
BLAKE3 = {
    "hash_f32":
        "5dba75bc0f3b80b75e352d1dd46a5658f433ba11144208cdab1455686f2b477f",
    "hash_mixed":
        "1059a256916737daa7e264c8a5cd6f21d4f1586454b1f29fdc892e9b41a71097",
    "hash_no_metadata":
        "8f8ef92eadd498f747fdb64ca6be76ba121817070be22e5e370fd3892c06d141",
    "hash_unicode":
        "5e24c36e42b2922ee8f7cc2a21b97a4acb58f6228747faac738bfae5a3373c93",
    "hash_legacy_window":
        "e1b61844f42444ca94ff7b17b2950c9ac78bfa43cfa8b10e12008ff448326ea3",
}


def sha256_of(data):
    return hashlib.sha256(data).hexdigest()


def bare_file(suite, tensors, metadata):
    """The file that kohya hashes: the tensors as the writer orders them, and
    no metadata but the ss_ entries, in an object that may be empty."""
    path = suite.path("bare.safetensors")
    kept = {k: v for k, v in metadata.items() if k.startswith("ss_")}
    support.write_file(path, tensors, kept)
    whole = path.read_bytes()
    if not kept:
        _, start = support.read_header(path)
        text = b'{"__metadata__":{}' + (b"," if tensors else b"")
        text += whole[9:start].rstrip()
        text += b" " * (-len(text) % 8)
        whole = len(text).to_bytes(8, "little") + text + whole[start:]
    path.unlink()
    return whole


def content_id(tensors):
    """As include/lora/hash.h defines it."""
    digest = hashlib.sha256()
    for name in sorted(tensors, key=str.encode):
        t = tensors[name]
        shape = ",".join(map(str, t.shape))
        digest.update(f"{name}\0{t.dtype}\0{shape}\0".encode() + t.data)
    return digest.hexdigest()


def expected_hashes(suite, path):
    """sha256 and crc32 of the file; AutoV1 of 64 KiB at 1 MiB; AutoV2 the
    start of sha256; AutoV3 of everything after the header; and those of the
    tensors."""
    whole = path.read_bytes()
    _, start = support.read_header(path)
    tensors, metadata = support.read_file(path)
    sha256, body = sha256_of(whole), sha256_of(whole[start:])
    bare = bare_file(suite, tensors, metadata)
    ordered = bare[8 + int.from_bytes(bare[:8], "little"):]
    return {
        "sha256": sha256, "auto_v2": sha256[:10],
        "auto_v1": sha256_of(whole[0x100000:0x110000])[:8],
        "auto_v3": body[:12], "lycoris": "0x" + body,
        "crc32": f"{zlib.crc32(whole):08x}",
        "sshs_model_hash": sha256_of(ordered),
        "sshs_legacy_hash": sha256_of(bare[0x100000:0x110000])[:8],
        "content_id": content_id(tensors),
    }


def check_hashes(suite, path, expected):
    report = suite.json("hash", path, "--all")
    for name, value in expected.items():
        equal(report["hashes"][name], value, name)
    equal(report["file"], str(path), "file")


def check_golden(suite, folder, case):
    path = folder / case["adapter"]
    values = case["values"]
    expected = expected_hashes(suite, path)
    for name in ("auto_v1", "auto_v2", "auto_v3", "sshs_model_hash",
                 "sshs_legacy_hash"):
        equal(expected[name], values[name], f"{name} as the test computes it")
    equal(expected["sha256"], values["sha256_file"], "sha256")
    equal(expected["lycoris"], values["modelspec_hash_sha256"], "modelspec")
    equal(expected["lycoris"], values["sd_scripts_modelspec_file_order"],
          "LyCORIS' recipe")
    if case["id"] in BLAKE3:
        expected["blake3"] = BLAKE3[case["id"]]
    check_hashes(suite, path, expected)
    metadata = json.loads(
        (folder / case["params"]["metadata_file"]).read_text("utf-8"))
    equal(suite.json("info", path)["metadata"], metadata, "metadata")
    copy = suite.path("copy.safetensors")
    suite.run("convert", path, "-o", copy, "--force")
    support.require_writer_rules(copy)
    tensors, kept = support.read_file(copy)
    equal(kept, metadata, "metadata of a copy")
    for name, original in support.read_file(path)[0].items():
        assert tensors[name].same(original), f"{name} changed in a copy"


def check_sizes(suite, elements):
    """Files around the window of AutoV1 and the blocks of the hashes."""
    path = suite.path(f"size{elements}.safetensors")
    values = np.random.default_rng(elements).integers(0, 256, elements, "u1")
    support.write_file(path, {"x": tensor(values, "U8")})
    check_hashes(suite, path, expected_hashes(suite, path))
    path.unlink()


def many_tensors(seed, count, largest):
    """Names, types and sizes, some of them empty, in no order."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for i in range(count):
        dtype = ("F32", "F16", "U8", "BF16", "I64")[rng.integers(5)]
        shape = rng.integers(0, largest, rng.integers(0, 3)).tolist()
        size = support.DTYPES[dtype][0] * int(np.prod(shape, dtype=int))
        tensors[f"é{rng.integers(1 << 30):x}.{i}"] = support.Tensor(
            dtype, shape, rng.bytes(size))
    return tensors


def check_orders(suite, seed, count, largest, ss):
    """The writer's two orders, small and large files, by one and by several
    threads; metadata and order do not reach the hashes of the tensors."""
    path = suite.path("orders.safetensors")
    tensors = many_tensors(seed, count, largest)
    metadata = {"other": "x" * 99, **({"ss_a": "é" * 50} if ss else {})}
    ids = set()
    for old in (False, True):
        for entries in (metadata, {**metadata, "more": "y" * 333}):
            support.write_file(path, tensors, entries, old)
            expected = expected_hashes(suite, path)
            for threads in (1, 3):
                report = suite.json("hash", path, "--threads", threads)
                for name, value in expected.items():
                    equal(report["hashes"][name], value, name)
            ids.add(tuple(report["hashes"][name] for name in
                          ("sshs_model_hash", "content_id")))
    equal(len(ids), 1, "hashes of one set of tensors")
    support.write_file(path, {**tensors, "zz": tensor(1.0)}, metadata)
    changed = suite.json("hash", path)["hashes"]
    require(changed["content_id"] not in ids.pop(), "the id of other tensors")
    path.unlink()


def check_folders(suite):
    """A folder is the file in it. Files that an index joins have no bytes as
    one, only tensors: the hashes of these are those of one file with all."""
    folder = suite.path("folder")
    folder.mkdir()
    path = folder / "adapter_model.safetensors"
    support.write_file(path, many_tensors(1, 5, 9), {"a": "b"})
    check_hashes(suite, folder, expected_hashes(suite, path))
    equal(suite.json("info", folder, "--hash", "sha256")["hashes"],
          {"sha256": sha256_of(path.read_bytes())}, "info")

    shards, tensors, where = suite.path("shards"), {}, {}
    shards.mkdir()
    for i in range(2):
        part = many_tensors(10 + i, 6, 200)
        name = f"model-0000{i + 1}-of-00002.safetensors"
        support.write_file(shards / name, part, {"ss_a": "b"})
        tensors.update(part)
        where.update(dict.fromkeys(part, name))
    index = shards / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}), "utf-8")
    whole = suite.path("whole.safetensors")
    support.write_file(whole, tensors, {"ss_a": "b"})
    expected = dict.fromkeys(suite.json("hash", whole)["hashes"])
    defined = ("sshs_model_hash", "sshs_legacy_hash", "content_id")
    expected.update((name, value) for name, value
                    in expected_hashes(suite, whole).items()
                    if name in defined)
    for source in (shards, index):
        equal(suite.json("hash", source)["hashes"], expected, "hash")
        equal(suite.json("info", source, "--hash", "all")["hashes"], expected,
              "info")
    require(expected["content_id"] in suite.run("hash", shards).out,
            "nothing is shown")
    (shards / "other.safetensors.index.json").write_bytes(index.read_bytes())
    suite.run("hash", shards, code=UNREADABLE)


def data_of(tensors):
    """The data in the order of the reference's writer."""
    return b"".join(t.data for _, t in sorted(
        tensors.items(), key=lambda i: (support.ORDER[i[1].dtype], i[0])))


def check_stale(suite):
    """`check` knows kohya's hash in the orders of both writers, and leaves
    LyCORIS' alone, whose order files do not keep."""
    path = suite.path("stale.safetensors")
    name = "lora_unet_a.lora_"
    two = tensor([[1.0, 2.0], [3.0, 4.0]])
    tensors = {name + "down.weight": two, name + "up.weight": two,
               "lora_unet_a.alpha": tensor(1.0, "F16")}
    new = data_of(tensors)
    old = b"".join(tensors[n].data for n in sorted(tensors))
    for stored, stale in ((sha256_of(new), False), (sha256_of(old), False),
                          ("0x" + sha256_of(b""), False), (None, False),
                          (sha256_of(b""), True), ("", True),
                          (sha256_of(new)[:12], True)):
        for as_old in (False, True):
            support.write_file(path, tensors, {"sshs_model_hash": stored}
                               if stored is not None else {}, as_old)
            problems = suite.json("check", path)["problems"]
            found = [p for p in problems if p["code"] == "stale_hash"]
            equal(bool(found), stale, f"stale_hash of {stored}")
            for problem in found:
                equal((problem["severity"], problem["subject"]),
                      ("warning", "sshs_model_hash"), "the problem")
    path.unlink()


def check_refreshed(suite):
    """Where values change, hashes that the file has become those of the
    result, and no others are added."""
    path, out = suite.path("values.safetensors"), suite.path("out.safetensors")
    values = np.random.default_rng(1).normal(size=(2, 400 * 400))
    tensors = {f"lora_unet_a.lora_{side}.weight": tensor(values, shape=shape)
               for side, shape in (("down", (2, values.size // 2)),
                                   ("up", (values.size // 2, 2)))}
    stored = {"sshs_model_hash": "0", "sshs_legacy_hash": "1",
              "modelspec.hash_sha256": "2"}
    for kept in ({}, stored):
        for more in ({}, {"ss_a": "é", "title": "x"}):
            support.write_file(path, tensors, {**kept, **more}, old=True)
            suite.run("convert", path, "-o", out, "--dtype", "bf16", "--force")
            metadata = support.read_file(out)[1]
            hashes = suite.json("hash", out)["hashes"]
            expected = expected_hashes(suite, out)
            for name in ("sshs_model_hash", "sshs_legacy_hash"):
                equal(hashes[name], expected[name], name)
                equal(metadata.get(name), kept and hashes[name] or None, name)
            equal(metadata.get("modelspec.hash_sha256"),
                  kept and hashes["lycoris"] or None, "modelspec")
            codes = [p["code"] for p in suite.json("check", out)["problems"]]
            require("stale_hash" not in codes, f"{codes}")
    path.unlink()
    out.unlink()


def check_renamed(suite):
    """Names alone put the tensors in another order: a hash that was right in
    one of the two stays right in it, also on the way back; one of others
    stays, as it says which training this was."""
    path, out = suite.path("names.safetensors"), suite.path("out.safetensors")
    back = suite.path("back.safetensors")
    rng = np.random.default_rng(3)
    tensors = {}
    for layer in ("attn1_to_q", "attn1_to_k", "attn2_to_out_0", "ff_net_2"):
        name = ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_"
                + layer)
        tensors[name + ".lora_down.weight"] = tensor(rng.normal(size=(2, 8)),
                                                     "F16")
        tensors[name + ".lora_up.weight"] = tensor(rng.normal(size=(8, 2)))
        tensors[name + ".alpha"] = tensor(1.0, "F16")
    by_writer = data_of(tensors)
    by_name = b"".join(tensors[n].data for n in sorted(tensors))
    require(by_writer != by_name, "the orders do not differ")
    for stored, order in ((sha256_of(by_writer), data_of),
                          (sha256_of(by_name), lambda t: b"".join(
                              t[n].data for n in sorted(t))),
                          ("0" * 64, None)):
        support.write_file(path, tensors, {"sshs_model_hash": stored})
        suite.run("convert", path, "-o", out, "--dialect", "diffusers",
                  "--force")
        converted, metadata = support.read_file(out)
        equal(metadata["sshs_model_hash"],
              sha256_of(order(converted)) if order else stored, "converted")
        codes = [p["code"] for p in suite.json("check", out)["problems"]]
        equal("stale_hash" in codes, order is None, "stale")
        suite.run("convert", out, "-o", back, "--dialect", "kohya", "--force")
        equal(support.read_file(back)[1]["sshs_model_hash"], stored, "back")
        require(back.read_bytes() == path.read_bytes(), "not the same file")
    for file in (path, out, back):
        file.unlink()


def check_window(suite):
    """The file whose legacy hash is of something; a megabyte of noise."""
    folder = support.SHARED / "golden/ops"
    if not folder.is_dir():
        skip("needs ../shared")
    cases = json.loads((folder / "cases.json").read_text("utf-8"))
    check_golden(suite, folder, support.one(cases, "id", "hash_legacy_window"))


def check_info(suite):
    path = suite.path("info.safetensors")
    support.write_file(path, many_tensors(3, 9, 9))
    hashes = suite.json("hash", path)["hashes"]
    equal(suite.json("info", path, "--hash", "all")["hashes"], hashes, "info")
    for name in hashes:
        equal(suite.json("info", path, "--hash", name)["hashes"],
              {name: hashes[name]}, f"info --hash {name}")
        require(hashes[name] in suite.run("hash", path, "--all").out, name)
    path.unlink()


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    folder, cases = suite.unpack("hashes")
    for case in cases:
        with suite.case(case["id"]):
            check_golden(suite, folder, case)
    for elements in (0, 1, 55, 56, 63, 64, 65, 119, 127, 128, 1 << 20,
                     (1 << 20) + 1000, (1 << 20) + (1 << 16), 3 << 20):
        with suite.case(f"{elements} bytes of data"):
            check_sizes(suite, elements)
    for i, shape in enumerate(((0, 1, True), (1, 9, False), (9, 9, True),
                               (40, 400, True), (40, 400, False))):
        with suite.case(f"orders {shape}"):
            check_orders(suite, i, *shape)
    for name, check in (("stale", check_stale),
                        ("refreshed", check_refreshed),
                        ("renamed", check_renamed),
                        ("window", check_window), ("info", check_info),
                        ("folders", check_folders)):
        with suite.case(name):
            check(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
