"""What the tests of the program share: the program run in a folder of example
files and broken ones, on a terminal or not, and what its help says.
"""

import json
import os
import pathlib
import pty
import re
import select
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import fusing  # noqa: E402
import models  # noqa: E402
import support  # noqa: E402
import undos  # noqa: E402
from support import OK, equal, require  # noqa: E402

ADAPTER = "portrait.safetensors"
OTHER = "ink.safetensors"
BEFORE, AFTER = "before.safetensors", "after.safetensors"

OUT = ["-o", "result.safetensors"]

# What a verb needs to do something with all its options.
BASE = {
    "info": ["info", ADAPTER],
    "keys": ["keys", ADAPTER],
    "check": ["check", ADAPTER],
    "bind": ["bind", ADAPTER, "--family", "sd15"],
    "hash": ["hash", ADAPTER],
    "meta": ["meta", ADAPTER, "--set", "key=value", *OUT],
    "convert": ["convert", ADAPTER, *OUT],
    "resize": ["resize", ADAPTER, *OUT, "--rank", "4"],
    "extract": ["extract", BEFORE, AFTER, *OUT, "--rank", "4"],
    "embed": ["embed", "insert", ADAPTER, "token.safetensors", *OUT],
    "delta": ["delta", "half.safetensors", "--skip-bad", *OUT],
    "fuse": ["fuse", "weights.safetensors", "pairs.safetensors", *OUT],
    "unfuse": ["unfuse", "fused.safetensors", "--undo", "fused.undo", *OUT],
    "light": ["light", "compress", ADAPTER, *OUT, "--down-size", "8",
              "--up-size", "4"],
    "plot": ["plot", ADAPTER, *OUT],
    "demo": ["demo", "--json", "fresh"],
    "help": ["help"],
    "version": ["version"],
    "completion": ["completion", "bash"],
}

class Cli:
    """Runs the program in a folder that holds the example files."""

    def __init__(self, suite):
        self.suite = suite
        self.folder = suite.path("work")
        self.run("demo", "--json", str(self.folder), folder=suite.folder)
        self.make_inputs()

    def run(self, *args, code=OK, folder=None, **more):
        there = {**os.environ, "NO_COLOR": "", "TERM": "xterm"}
        done = subprocess.run([self.suite.program, *map(str, args)],
                              cwd=folder or self.folder, capture_output=True,
                              stdin=subprocess.DEVNULL, env=there,
                              timeout=support.TIMEOUT, **more)
        run = support.Run(["lora", *map(str, args)], done.returncode,
                          done.stdout.decode("utf-8", "replace"),
                          done.stderr.decode("utf-8", "replace"))
        require(run.code >= 0, f"killed by signal {-run.code}: {run}")
        if code is not None:
            equal(run.code, code, f"exit code of {run}")
        return run

    def make_inputs(self):
        """Inputs that are wrong, each in its way."""
        good = (self.folder / ADAPTER).read_bytes()
        files = {
            "empty.safetensors": b"",
            "cut.safetensors": good[:-1],
            "page.safetensors": b"<!DOCTYPE html>\n<html><body>404</body>\n",
            "pointer.safetensors":
                b"version https://git-lfs.github.com/spec/v1\n"
                b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa"
                b"5e2ca24d17e2393\nsize 12345\n",
            "words.safetensors": b"This is not an adapter at all, sorry.\n",
        }
        for name, data in files.items():
            (self.folder / name).write_bytes(data)
        two = support.tensor([[1.0, 2.0], [3.0, 4.0]])
        support.write_file(self.folder / "model.safetensors", {"w": two})
        support.write_file(self.folder / "half.safetensors", {
            "lora_unet_a.lora_down.weight": two,
            "lora_unet_b.lora_down.weight": two,
            "lora_unet_b.lora_up.weight": two})
        support.write_file(self.folder / "unknown.safetensors", {
            "lora_unet_b.lora_down.weight": two,
            "lora_unet_b.lora_up.weight": two,
            "lora_unet_b.alpha": support.tensor(1.0),
            "something.else": two})
        support.write_file(self.folder / "escape.safetensors", {
            "lora_unet_\x1b[31mred.lora_down.weight": two,
            "lora_unet_\x1b[31mred.lora_up.weight": two})
        support.write_file(self.folder / "core.safetensors", {
            "lora_unet_a.lora_down.weight": support.tensor([[[[1.0]]],
                                                            [[[2.0]]]]),
            "lora_unet_a.lora_mid.weight": support.tensor(
                [[[[1.0, 2.0]], [[3.0, 4.0]]], [[[5.0, 6.0]], [[7.0, 8.0]]]]),
            "lora_unet_a.lora_up.weight": support.tensor(
                [[[[1.0]], [[2.0]]], [[[3.0]], [[4.0]]]])})
        support.write_file(self.folder / "fused.safetensors", {"w": two})
        undos.write(self.folder / "fused.undo",
                    [self.folder / "fused.safetensors"],
                    [self.folder / "fused.safetensors"])
        self.make_weights()
        vector = support.tensor([float(i) / 64 for i in range(768)])
        support.write_file(self.folder / "token.safetensors", {"<cat>": vector})
        support.write_file(self.folder / "bundle.safetensors", {
            "lora_unet_b.lora_down.weight": two,
            "lora_unet_b.lora_up.weight": two,
            "bundle_emb.<cat>.string_to_param.*": support.tensor(
                [[0.0] * 768] * 2)})
        self.make_models()
        (self.folder / "folder").mkdir()
        peft = self.folder / "peft"
        peft.mkdir()
        support.write_file(peft / "adapter_model.safetensors", {
            "base_model.model.a.lora_A.weight": two,
            "base_model.model.a.lora_B.weight": two})
        for path, alpha in ((peft / "adapter_config.json", 6),
                            (self.folder / "config.json", 10)):
            path.write_text(json.dumps({"peft_type": "LORA", "r": 2,
                                        "lora_alpha": alpha}))

    def make_weights(self):
        """A model of two weights, and adapters for one, both, and more."""
        rows = [[1.0, -1.0, 0.25]] * 4
        support.write_file(self.folder / "weights.safetensors", {
            "lora_unet_a.weight": support.tensor(rows, "F16"),
            "lora_unet_b.weight": fusing.stored(rows, "F8_E4M3")})
        for file, modules in (
                ("pairs", {"a": 0.1, "b": 900.0}),  # F8 ends at 448
                ("third", {"a": 0.1, "c": 0.1})):
            tensors = {}
            for name, up in modules.items():
                name = f"lora_unet_{name}.lora_"
                tensors[name + "down.weight"] = support.tensor([[1.0, 2.0, 3.0]])
                tensors[name + "up.weight"] = support.tensor([[up]] * 4)
            support.write_file(self.folder / f"{file}.safetensors", tensors)

    def make_models(self):
        """A base and a fine-tune of it, and what does not fit the base."""
        model = models.Model(width=96, context=12, blocks=1)
        first = next(iter(model.tuned))
        model.write_single(self.folder / BEFORE, model.base)
        model.write_single(self.folder / AFTER, model.tuned)
        bad = {**model.tuned, first: model.tuned[first] * float("nan")}
        model.write_single(self.folder / "after-nan.safetensors", bad)
        bad[first] = model.tuned[first][1:]
        model.write_single(self.folder / "after-shape.safetensors", bad)

    def names(self):
        return sorted(os.listdir(self.folder))

    def terminal(self, *args):
        """Run on a terminal; returns (exit code, all that was printed)."""
        there = {**os.environ, "TERM": "xterm"}
        there.pop("NO_COLOR", None)
        try:
            master, slave = pty.openpty()
        except OSError as error:  # a jail without /dev/pts
            support.skip(f"no terminal to be had: {error}")
        process = subprocess.Popen([self.suite.program, *map(str, args)],
                                   cwd=self.folder, env=there,
                                   stdin=subprocess.DEVNULL, stdout=slave,
                                   stderr=slave)
        os.close(slave)
        output, end = b"", time.monotonic() + support.TIMEOUT
        while time.monotonic() < end:
            if not select.select([master], [], [], 0.1)[0]:
                continue
            try:
                part = os.read(master, 65536)
            except OSError:  # how Linux says that nobody writes any more
                break
            if not part:
                break
            output += part
        else:
            process.kill()
        os.close(master)
        return process.wait(), output.decode("utf-8", "replace")


def environment(cli):
    """One in which `lora` is the program."""
    binary = cli.suite.path("bin")
    binary.mkdir(exist_ok=True)
    if not (binary / "lora").exists():
        (binary / "lora").symlink_to(cli.suite.program)
    return {**os.environ, "PATH": f"{binary}:{os.environ['PATH']}"}


def help_verbs(cli):
    text = cli.run("help").out
    block = text.split("\nVerbs\n")[1].split("\n\n")[0]
    return [line.split()[0] for line in block.splitlines()]


def help_options(cli, verb):
    """{option: (its letter, its value)} from `lora help VERB`."""
    text = cli.run("help", verb).out
    rows = re.findall(r"^  (?:-(\w), |    )--([\w-]+)(?: (\S+))?", text, re.M)
    return {name: (letter, value) for letter, name, value in rows}
