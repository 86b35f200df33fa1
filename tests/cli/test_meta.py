#!/usr/bin/env python3
"""lora meta: what is written is what was asked for, the tensors keep their
bytes, and whatever goes wrong leaves the file as it was.
"""

import json
import os
import pathlib
import random
import shutil
import stat
import subprocess
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import (FAILED, OK, UNREADABLE, USAGE, equal,  # noqa: E402
                     require, skip, tensor)

METADATA = {"ss_network_dim": "4", "ss_tag": "x" * 300, "title": "A",
            "modelspec.title": "B"}


def make(suite, metadata=METADATA, old=False, name="in.safetensors"):
    """A file of several types, in the order of an old or a new writer."""
    path = suite.path(name)
    rng = np.random.default_rng(5)
    support.write_file(path, {
        "b.lora_up.weight": tensor(rng.normal(size=(3, 2)), "F16"),
        "a.lora_down.weight": tensor(rng.normal(size=(2, 5)), "F32"),
        "z": tensor(rng.integers(0, 255, 7), "U8")}, metadata, old)
    return path


def data_of(path):
    _, start = support.read_header(path)
    return path.read_bytes()[start:]


def identity(path):
    found = os.lstat(path)
    return found.st_ino, found.st_size, found.st_mode


def edit(suite, path, *args, **more):
    """Edit, compare what is there with what `lora meta` shows and with the
    tensors before, and return (report, metadata)."""
    before, data = support.read_file(path)[0], data_of(path)
    report = suite.json("meta", path, *args, **more)
    written = pathlib.Path(report["output"])
    tensors, metadata = support.read_file(written)
    equal(list(tensors), list(before), "tensors")
    equal(data_of(written), data, "the data")
    equal(report["bytes"], written.stat().st_size, "bytes")
    shown = suite.json("meta", written)
    equal(shown, {"file": str(written), "metadata": metadata}, "shown")
    return report, metadata


def check_in_place(suite):
    for old in (False, True):  # an old header has any length
        path = make(suite, old=old)
        before = identity(path)
        report, metadata = edit(suite, path, "--force", "--unset", "ss_*",
                                "--set", "title=C", "--set", "new=1")
        equal(metadata, {"title": "C", "modelspec.title": "B", "new": "1"},
              "metadata")
        equal([report[k] for k in ("added", "replaced", "removed")],
              [1, 1, 2], "counts")
        require(report["in_place"] and report["written"], f"{report}")
        equal(identity(path), before, "inode, size, mode")
        start = path.read_bytes()
        report, _ = edit(suite, path, "--force", "--set", "new=1")
        require(report["in_place"] and not report["written"], f"{report}")
        equal(path.read_bytes(), start, "bytes after an edit that is none")
        report, metadata = edit(suite, path, "--force", "--unset", "*")
        equal((metadata, identity(path)), ({}, before), "all removed")


def check_grown(suite):
    """What does not fit is written anew; mode bits stay, order too."""
    for old in (False, True):
        path = make(suite, old=old)
        path.chmod(0o640)
        report, metadata = edit(suite, path, "--force", "--set",
                                "n=" + "n" * 99)
        equal(metadata, {**METADATA, "n": "n" * 99}, "metadata")
        equal(report["in_place"], False, "in_place")
        equal(stat.S_IMODE(path.stat().st_mode), 0o640, "mode")
        _, start = support.read_header(path)
        equal(start % 8, 0, "alignment")
        equal(os.listdir(suite.folder), [path.name], "files")


def check_room(suite):
    path = make(suite)
    report, _ = edit(suite, path, "--room", "4K", "--force")
    require(not report["in_place"] and 4096 <= report["room"] < 4112,
            f"{report}")
    before = identity(path)
    for n in (10, 1000, 3000):
        report, _ = edit(suite, path, "--force", "--set", "n=" + "n" * n)
        require(report["in_place"], f"{report}")
    equal(identity(path), before, "inode, size, mode")
    report, _ = edit(suite, path, "--rewrite", "--force", "--unset", "n")
    require(not report["in_place"] and report["room"] < 8, f"{report}")


def check_output(suite):
    path, out = make(suite), suite.path("out.safetensors")
    whole = path.read_bytes()
    _, metadata = edit(suite, path, "-o", out, "--unset", "*title")
    equal(sorted(metadata), ["ss_network_dim", "ss_tag"], "metadata of a copy")
    support.require_writer_rules(out)
    suite.run("meta", path, "-o", out, "--unset", "*", code=FAILED)
    equal(support.read_file(out)[1], metadata, "the output that was there")
    edit(suite, path, "-o", out, "--unset", "*", "--force")
    equal(path.read_bytes(), whole, "the input")
    suite.run("meta", path, "-o", path, "--unset", "*", "--force")
    equal(path.read_bytes(), out.read_bytes(), "the input as output")
    out.unlink()


def check_hashes(suite):
    """Hashes of the tensors do not depend on metadata; stored ones stay."""
    path = make(suite, {**METADATA, "sshs_model_hash": "0" * 64})
    before = suite.json("hash", path)["hashes"]
    for args in (["--unset", "ss_*"], ["--set", "n=" + "n" * 999]):
        _, metadata = edit(suite, path, "--force", *args)
        equal(metadata["sshs_model_hash"], "0" * 64, "the stored hash")
        after = suite.json("hash", path)["hashes"]
        for name in ("auto_v3", "lycoris", "sshs_model_hash", "content_id"):
            equal(after[name], before[name], name)
        require(after["sha256"] != before["sha256"], "sha256 is as before")


def check_unicode(suite):
    rng = random.Random(1)
    path = make(suite, {})
    texts = ["", " ", "\"\\/\b\f\n\r\t", "".join(map(chr, range(1, 32))), "é",
             "\x7f\x80\u2028\ufeff", "漢字", "😀\U0010ffff", "=", "a=b=c"]
    texts += ["".join(chr(rng.choice((rng.randrange(1, 0xD800),
                                      rng.randrange(0xE000, 0x110000))))
                      for _ in range(50)) for _ in range(20)]
    for i, text in enumerate(texts):
        key = f"k{i}" + text.replace("=", "-")
        value = "@" + text if text.startswith("@") else text
        report, metadata = edit(suite, path, "--force", "--set",
                                f"{key}={value}")
        equal((metadata[key], report["added"]), (text, 1), f"value {text!r}")
    equal(len(support.read_file(path)[1]), len(texts), "entries")
    shown = suite.run("meta", path, "-v").out
    require("\x1b" not in shown and "\x7f" not in shown, "controls shown raw")
    _, metadata = edit(suite, path, "--force", "--unset", "k?漢字",
                       "--unset", "k6*")
    equal(len(metadata), len(texts) - 1, "entries, one removed")


def check_values(suite):
    path, text = make(suite), suite.path("text")
    text.write_bytes("two\nlines, é\n".encode())
    _, metadata = edit(suite, path, "--force", "--set", f"f=@{text}",
                       "--set", "at=@@home", "--set", "e=")
    equal([metadata[k] for k in ("f", "at", "e")],
          ["two\nlines, é\n", "@home", ""], "values")
    whole = path.read_bytes()
    for value, code in ((f"f=@{text}x", UNREADABLE), ("f=@", UNREADABLE)):
        suite.run("meta", path, "--force", "--set", value, code=code)
    for data, code in ((b"a\0b", UNREADABLE), (b"\xff", USAGE),
                       (b"a" * (16 << 20), UNREADABLE)):
        text.write_bytes(data)
        suite.run("meta", path, "--force", "--set", f"f=@{text}", code=code)
    equal(path.read_bytes(), whole, "the file")
    text.unlink()


def check_usage(suite):
    path = make(suite)
    whole = path.read_bytes()
    for args in (["--unset", "*"], ["--set", "a=b"], ["--rewrite"],
                 ["--set", "a", "--force"], ["--set", "=b", "--force"],
                 ["--set", "a=1", "--set", "a=1", "--force"],
                 ["--room", "x", "--force"], [path, "--unset", "*", "--force"]):
        suite.run("meta", path, *args, code=USAGE)
    done = subprocess.run([suite.program, "meta", path, "--force", "--set",
                           b"a=\xff"], capture_output=True)
    equal(done.returncode, USAGE, "exit code for what is not UTF-8")
    report = suite.json("meta", path, "--dry-run", "--unset", "*")
    require(report["in_place"] and not report["written"], f"{report}")
    equal(path.read_bytes(), whole, "the file")


def check_damaged(suite):
    """Files that cannot be read, or in two ways, stay as they are."""
    path = suite.path("bad.safetensors")
    good = make(suite).read_bytes()
    twice = b'{"__metadata__":{"a":"1","a":"2"}}'
    for name, data in (("cut", good[:-1]), ("long", good + b"x"),
                       ("twice", len(twice).to_bytes(8, "little") + twice),
                       ("empty", b""), ("text", b"<html></html>")):
        path.write_bytes(data)
        for more in ([], ["--set", "a=b", "--force"], ["-o", f"{path}.out"]):
            suite.run("meta", path, *more, code=UNREADABLE)
        equal(path.read_bytes(), data, name)
    path.unlink()
    suite.run("meta", path, "--set", "a=b", "--force", code=UNREADABLE)
    path.mkdir()
    suite.run("meta", path, "--set", "a=b", "--force", code=UNREADABLE)
    path.rmdir()
    equal(os.listdir(suite.folder), ["in.safetensors"], "files")


def check_no_adapter(suite):
    path = suite.path("plain.safetensors")
    support.write_file(path, {})
    require("no metadata" in suite.run("meta", path).out, "shown")
    _, metadata = edit(suite, path, "--force", "--set", "a=b")
    equal(metadata, {"a": "b"}, "metadata")
    path.unlink()


def check_folders(suite):
    """A folder is the file in it; files that an index joins are edited one by
    one, as each has metadata of its own."""
    folder = suite.path("folder")
    folder.mkdir()
    path = make(suite).rename(folder / "adapter_model.safetensors")
    equal(suite.json("meta", folder)["metadata"], METADATA, "shown")
    data = data_of(path)
    report = suite.json("meta", folder, "--set", "title=Z", "--force")
    equal((report["in_place"], report["replaced"]), (True, 1), "report")
    tensors, metadata = support.read_file(path)
    equal(metadata, {**METADATA, "title": "Z"}, "edited")
    equal(data_of(path), data, "the data")
    copy = suite.path("of-folder.safetensors")
    suite.json("meta", folder, "--unset", "*", "-o", copy)
    equal(support.read_file(copy)[1], {}, "the copy")
    equal(os.listdir(folder), [path.name], "files")

    index = folder / "model.safetensors.index.json"
    path = path.rename(folder / "model.safetensors")
    index.write_text(json.dumps(
        {"weight_map": dict.fromkeys(tensors, path.name)}), "utf-8")
    before = path.read_bytes()
    for source in (index, folder):
        equal(suite.json("meta", source)["metadata"],
              {**METADATA, "title": "Z"}, "shown")
        run = suite.run("meta", source, "--set", "a=b", "--force", code=FAILED)
        require("one by one" in run.err, run.err)
    equal(path.read_bytes(), before, "the file")
    equal(sorted(os.listdir(folder)), sorted([path.name, index.name]), "files")


def check_links(suite):
    """A store that shares files by links must not change."""
    store, path = make(suite), suite.path("link.safetensors")
    whole = store.read_bytes()
    for make_link in (os.symlink, os.link):
        make_link(store, path)
        report, metadata = edit(suite, path, "--force", "--unset", "*")
        equal((report["in_place"], metadata), (False, {}), "the link")
        require(not path.is_symlink(), "still a link")
        equal(store.read_bytes(), whole, "what it led to")
        path.unlink()


def check_read_only(suite):
    """Neither way of writing changes a file that is write-protected."""
    path = make(suite)
    whole = path.read_bytes()
    others = {}
    if os.geteuid() == 0:  # whom no file is closed to
        os.chmod(suite.folder, 0o777)
        os.chown(path, 65534, 65534)
        others = {"user": 65534, "group": 65534, "extra_groups": []}

    def change(*args):
        try:
            done = subprocess.run([suite.program, "meta", path, "--force",
                                   *args], capture_output=True, **others)
        except PermissionError as error:
            skip(f"another user cannot run the program: {error}")
        if b"cannot open" in done.stderr:
            skip("another user cannot get here")
        return done

    path.chmod(0o444)
    for args in (["--unset", "*"], ["--set", "n=" + "n" * 99],
                 ["--unset", "*", "--rewrite"]):
        done = change(*args)
        equal(done.returncode, FAILED, f"exit code, {done.stderr}")
        require(b"no permission" in done.stderr, f"{done.stderr}")
        equal(path.read_bytes(), whole, "the file")
    path.chmod(0o644)
    for args in (["--unset", "*"], ["--set", "n=" + "n" * 999]):
        equal(change(*args).returncode, OK, "exit code where it may be")
    equal(os.listdir(suite.folder), [path.name], "files")


def check_full_disk(suite):
    """The write ends at a limit, wherever that is: the old file stays."""
    path = make(suite)
    whole = path.read_bytes()
    for args in (["--unset", "ss_*"], ["--set", "n=" + "n" * 99],
                 ["--unset", "ss_tag", "--rewrite"]):
        for largest in (1, 8, 17, 40, 100, 200, 300):
            suite.run("meta", path, "--force", *args, largest=largest,
                      code=FAILED)
            equal(path.read_bytes(), whole, f"{args} with {largest} bytes")
            equal(os.listdir(suite.folder), [path.name], "files")


CHECKS = [check_in_place, check_grown, check_room, check_output, check_hashes,
          check_unicode, check_values, check_usage, check_damaged,
          check_no_adapter, check_folders, check_links, check_read_only,
          check_full_disk]


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    for check in CHECKS:
        with suite.case(check.__name__):
            check(suite)
        for path in suite.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
