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
from support import equal, tensor  # noqa: E402


def expected_hashes(path):
    """sha256 and crc32 of the file; AutoV1 of 64 KiB at 1 MiB; AutoV2 the
    start of sha256; AutoV3 of everything after the header."""
    whole = path.read_bytes()
    _, start = support.read_header(path)
    sha256 = hashlib.sha256(whole).hexdigest()
    return {
        "sha256": sha256, "auto_v2": sha256[:10],
        "auto_v1": hashlib.sha256(whole[0x100000:0x110000]).hexdigest()[:8],
        "auto_v3": hashlib.sha256(whole[start:]).hexdigest()[:12],
        "crc32": f"{zlib.crc32(whole):08x}",
    }


def check_hashes(suite, path, expected):
    report = suite.json("hash", path, "--all")
    for name, value in expected.items():
        equal(report["hashes"][name], value, name)
    equal(report["file"], str(path), "file")


def check_golden(suite, folder, case):
    path = folder / case["adapter"]
    values = case["values"]
    expected = expected_hashes(path)
    for name in ("auto_v1", "auto_v2", "auto_v3"):
        equal(expected[name], values[name], f"{name} as the test computes it")
    equal(expected["sha256"], values["sha256_file"], "sha256")
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
    check_hashes(suite, path, expected_hashes(path))


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
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
