#!/usr/bin/env python3
"""Pictures: they are XML whatever the names are, and what they show are the
singular values that numpy finds in the dense weight changes.

Shapes are read back into numbers by the marks of their axes, as an eye would.
"""

import os
import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np

from program import ADAPTER, OTHER, Cli, support
from support import (FAILED, MISMATCH, OK, UNREADABLE, USAGE, close, equal,
                     require)

SVG = "{http://www.w3.org/2000/svg}"

# Coordinates have two decimals, those of marks too: a value read between two
# marks, or not farther beyond them than they are apart, is off by 0.005 for
# itself and by three times that for the marks.
PIXEL = 0.02

NAMES = ["plain", "a<b>&\"'", "line\nbreak\x01\x1b[31m", "\u202etxet", "é\ufffe",
         "unet_" + "long_" * 60 + "end"]


# Reading a picture ----------------------------------------------------------

class Axis:
    """From a coordinate to a value, by the two marks farthest apart."""

    def __init__(self, marks, log):
        (self.at, first), *_, (end, last) = sorted(marks)
        self.log = log
        self.first = np.log(first) if log else first
        self.step = ((np.log(last) if log else last) - self.first)
        self.step /= end - self.at

    def value(self, coordinate):
        value = self.first + (np.asarray(coordinate) - self.at) * self.step
        return np.exp(value) if self.log else value

    def bound(self, values):
        """Of the error of values that were read."""
        return abs(self.step) * PIXEL * (np.abs(values) if self.log else 1.0)


class Picture:
    """What is in a picture: texts, and the paths of each of its charts."""

    def __init__(self, data):
        root = ElementTree.fromstring(data)
        self.texts = [(t.get("class"), float(t.get("x")), float(t.get("y")),
                       t.text or "") for t in root.iter(SVG + "text")]
        self.all_text = " ".join(t.text or "" for t in root.iter())
        self.root = root

    def paths(self, style):
        """Points of all paths of a style, in the order they were drawn."""
        return [np.array(re.findall(r"[\d.]+", p.get("d")), float)
                .reshape(-1, 2)
                for p in self.root.iter(SVG + "path")
                if p.get("class") == style]

    def head(self, title):
        return next((x, y + 14) for style, x, y, text in self.texts
                    if (style, text) == ("head", title))

    def axes(self, title, log):
        """(across, up) of the chart of that title."""
        left, top = self.head(title)
        bottom = min(y for style, x, y, _ in self.texts
                     if style == "note mid" and y > top and x >= left) - 17
        right = left + (810 if log and "values" in title else 372)
        up = [(y - 4, float(text.rstrip(" %")))
              for style, x, y, text in self.texts
              if style == "note end" and x == left - 8 and top < y < bottom + 8]
        if title.startswith("Energy"):
            up = [(y, (100 - kept) / 100) for y, kept in up]
        across = [(x, float(text)) for style, x, y, text in self.texts
                  if style == "note mid" and y == bottom + 17
                  and left <= x <= right + 1]
        return (Axis(across, False) if len(across) > 1 else None,
                Axis(up, log))


def draw(cli, *args):
    return Picture(cli.run("plot", *args, "-o", "-").out.encode())


def spectra(path):
    """Singular values of every layer, from its dense change."""
    tensors, _ = support.read_file(path)
    return [np.linalg.svd(support.flat(
        support.module_delta(tensors, name)[0]), compute_uv=False)
        [:tensors[name + support.KOHYA["down"]].shape[0]]
        for name in support.module_names(tensors)]


def write(path, layers, dtype="F32"):
    """layers: {name: (up, down, alpha)}"""
    tensors = {}
    for name, (up, down, alpha) in layers.items():
        tensors[name + ".lora_up.weight"] = support.tensor(up, dtype)
        tensors[name + ".lora_down.weight"] = support.tensor(down, dtype)
        tensors[name + ".alpha"] = support.tensor(float(alpha))
    support.write_file(path, tensors)


def make_layers(rng, count, ranks):
    """Layers of several ranks, whose values fall off by a factor each."""
    layers = {}
    for i in range(count):
        rank = ranks[i % len(ranks)]
        fall = 0.9 ** (np.arange(rank) * (1 + i % 3))
        size = np.exp(rng.standard_normal())
        layers[f"lora_unet_layer_{i:03}"] = (
            rng.standard_normal((24, rank)) * fall * size,
            rng.standard_normal((rank, 20)), rank / 2)
    return layers


# The numbers ----------------------------------------------------------------

def at_rank(values, k):
    return [s[k] for s in values if k < len(s)]


def lost_share(sigma, k):
    return float(np.sum(sigma[k:] ** 2) / np.sum(sigma ** 2))


def effective_rank(sigma):
    share = sigma / sigma.sum()
    return float(np.exp(-np.sum(share * np.log(share))))


def compare(axes, points, expected, what):
    """The heights of a line's points at 1, 2, ... as values."""
    across, up = axes
    places = np.arange(len(points)) + across.first_place
    close(across.value(points[:, 0]), places, across.bound(places), what)
    got = up.value(points[:, 1])
    close(got, expected, up.bound(np.asarray(expected)), what)


def check_values(cli):
    """Median and bands of one file; where some layers end, of the others."""
    path = cli.folder / "layers.safetensors"
    write(path, make_layers(np.random.default_rng(1), 40, (4, 12, 9)))
    values = spectra(path)
    picture = draw(cli, path.name)
    axes = picture.axes("Singular values", True)
    axes[0].first_place = 1
    for style, low, high in (("bold s0", 0.5, 0.5), ("faint f0", 0, 1),
                             ("pale f0", 0.25, 0.75)):
        points = picture.paths(style)[0]
        upper = points[:12]
        compare(axes, upper, [np.quantile(at_rank(values, k), high)
                              for k in range(12)], f"{style}, upper")
        if style != "bold s0":
            compare(axes, points[:11:-1],
                    [np.quantile(at_rank(values, k), low)
                     for k in range(12)], f"{style}, lower")
    largest = sorted(values, key=lambda s: -s[0])[:6]
    for i, sigma in enumerate(largest):
        compare(axes, picture.paths(f"line s{i + 1}")[0], sigma,
                f"largest layer {i}")
    require("40 layers, ranks 4 to 12" in picture.all_text, "summary")


def check_kept(cli):
    """What a rank keeps: of all layers together, and 8 of 10 of them."""
    values = spectra(cli.folder / "layers.safetensors")
    picture = draw(cli, "layers.safetensors")
    axes = picture.axes("Energy kept at a rank", True)
    axes[0].first_place = 0
    total = sum(np.sum(s ** 2) for s in values)
    together = [sum(np.sum(s[k:] ** 2) for s in values) / total
                for k in range(13)]
    # The axis ends at 99.9 %.
    points = picture.paths("bold s0")[1]
    compare(axes, points, np.maximum(together, 1e-3), "together")
    band = picture.paths("faint f0")[-1]
    for points, share in ((band[:13], 0.9), (band[:12:-1], 0.1)):
        compare(axes, points,
                [max(np.quantile([lost_share(s, k) for s in values], share),
                     1e-3) for k in range(13)], f"{share} of the layers")


def check_used(cli):
    """The bars hold all layers, each where its effective rank is."""
    found = [effective_rank(s)
             for s in spectra(cli.folder / "layers.safetensors")]
    picture = draw(cli, "layers.safetensors")
    across, up = picture.axes("Effective rank", False)
    bars = [[float(r.get(key)) for key in ("x", "y", "width", "height")]
            for r in picture.root.iter(SVG + "rect")
            if r.get("class") == "solid f0"]
    counts = 0
    for x, y, width, _ in bars:
        left, right = across.value([x - 0.5, x + width + 0.5])
        slack = across.bound(1.0)
        inside = [e for e in found if left - slack <= e <= right + slack]
        share = up.value(y)
        close(share, 100 * len(inside) / len(found), up.bound(1.0),
              f"layers from {left} to {right}")
        counts += round(share / 100 * len(found))
    equal(counts, len(found), "layers in all bars")
    rows = [text for style, x, _, text in picture.texts
            if style == "end" and x == 876]
    largest = sorted(spectra(cli.folder / "layers.safetensors"),
                     key=lambda s: -s[0])[:6]
    equal(rows, [f"{effective_rank(s):.1f}" for s in largest],
          "effective ranks in the list")


def check_one_value(cli):
    """Layers of rank 1: one place, all medians there."""
    path = cli.folder / "one.safetensors"
    write(path, make_layers(np.random.default_rng(2), 7, (1,)))
    values = [s[0] for s in spectra(path)]
    picture = draw(cli, path.name)
    _, up = picture.axes("Singular values", True)
    got = up.value(picture.paths("bold s0")[0][:, 1])
    close(got, [np.median(values)] * 2, up.bound(np.median(values)), "median")
    for i, value in enumerate(sorted(values)[::-1][:6]):
        points = picture.paths(f"line s{i + 1}")[0]
        close(up.value(points[0, 1]), value, up.bound(value), f"layer {i}")
    equal(len(picture.paths("thin s0")), 7, "few layers are all drawn")


def check_several(cli):
    """Each file is a line of its own, and has its name in the legend."""
    second = cli.folder / "second.safetensors"
    write(second, make_layers(np.random.default_rng(3), 5, (6,)))
    picture = draw(cli, "layers.safetensors", second.name)
    axes = picture.axes("Singular values", True)
    axes[0].first_place = 1
    for i, name in enumerate(("layers.safetensors", second.name)):
        values = spectra(cli.folder / name)
        ranks = range(max(map(len, values)))
        compare(axes, picture.paths(f"bold s{i}")[0],
                [np.median(at_rank(values, k)) for k in ranks], f"file {i}")
        compare(axes, picture.paths(f"line dash s{i}")[0],
                [np.max(at_rank(values, k)) for k in ranks], f"top of {i}")
        require(any(text == name for *_, text in picture.texts),
                f"{name} is not in the legend")
    many = draw(cli, *[second.name] * 11)
    equal(len(many.paths("bold s0 dots")), 2, "lines of the ninth file")
    require("nan" not in many.all_text and "inf" not in many.all_text,
            "a number that is none")


def check_extremes(cli):
    """Values of any size, exact zeros after others, a layer that is zero."""
    def layer(size, rank=3):
        return (np.eye(4)[:, :rank] * size, np.eye(4)[:rank], rank)

    for size in (1e-30, 1e30):
        path = cli.folder / "extreme.safetensors"
        write(path, {"lora_unet_a": layer(np.array([1, 1e-3, 0]) * size),
                     "lora_unet_b": layer(size), "lora_unet_c": layer(0.0)})
        picture = draw(cli, path.name)
        axes = picture.axes("Singular values", True)
        axes[0].first_place = 1
        compare(axes, picture.paths("bold s0")[0],
                np.float32([1, 0.5005, 0.5]) * np.float64(size), f"{size}")
        require("1 more is zero" in picture.all_text, "the zero layer")
        for p in picture.root.iter(SVG + "path"):
            require(re.fullmatch(r"M[\d. ]+Z?", p.get("d")),
                    f"path {p.get('d')}")


# Texts, files, failures -----------------------------------------------------

def check_escapes(cli):
    """Names of layers and of the file: XML in any case, nothing runs away."""
    path = cli.folder / "a<&>\"b.safetensors"
    two = np.eye(2)
    for name in NAMES:
        write(path, {name: (two, two, 2)})
        picture = draw(cli, path.name)
        require("a<&>\"b.safetensors" in picture.all_text, "file name")
        shown = [text for style, _, _, text in picture.texts
                 if style == "mono"]
        equal(len(shown), 1, "layers named")
        require(len(shown[0]) <= 68, f"too long: {shown}")
    require("..." in shown[0] and shown[0].endswith("end"), f"cut: {shown}")
    path.unlink()
    raw = os.fsdecode(bytes(cli.folder) + b"/\xff\xfe.safetensors")
    write(raw, {"a": (two, two, 2)})
    require("\\xff" in draw(cli, raw).all_text, "name that is not UTF-8")


def check_bytes(cli):
    """The same bytes from any number of threads, in a file and on stdout."""
    first = cli.run("plot", ADAPTER, OTHER, "-o", "-", "--threads", "1").out
    for args in (["--threads", "3"], ["--what", "spectrum"]):
        equal(cli.run("plot", ADAPTER, OTHER, "-o", "-", *args).out, first,
              f"bytes with {args}")
    run = cli.run("plot", ADAPTER, OTHER, "-o", "out.svg")
    equal((cli.folder / "out.svg").read_text("utf-8"), first, "the file")
    require("out.svg" in run.err and run.out == "", f"{run}")
    cli.run("plot", ADAPTER, "-o", "out.svg", code=FAILED)
    equal((cli.folder / "out.svg").read_text("utf-8"), first, "kept")
    cli.run("plot", ADAPTER, "-o", "out.svg", "--force")
    require((cli.folder / "out.svg").read_text("utf-8") != first, "replaced")
    (cli.folder / "out.svg").unlink()


def check_refused(cli):
    one = support.tensor(np.ones(4))
    support.write_file(cli.folder / "norms.safetensors",
                       {"lora_unet_a.w_norm": one, "lora_unet_a.b_norm": one})
    support.write_file(cli.folder / "oft.safetensors", {
        "lora_unet_a.oft_blocks": support.tensor(np.zeros((2, 4, 4))),
        "lora_unet_a.alpha": support.tensor(np.float32(1))})
    write(cli.folder / "zeros.safetensors",
          {"a": (np.zeros((2, 2)), np.eye(2), 2)})
    before = cli.names()
    for args, code, word in (
            (["norms.safetensors"], FAILED, "no singular values"),
            (["zeros.safetensors"], FAILED, "zero"),
            (["oft.safetensors"], FAILED, "oft"),
            (["model.safetensors"], MISMATCH, "adapter"),
            (["half.safetensors"], MISMATCH, "lora_unet_a"),
            ([ADAPTER, "missing.safetensors"], UNREADABLE, "missing"),
            ([ADAPTER, "--what", "nonsense"], USAGE, "spectrum"),
            ([], USAGE, "missing")):
        run = cli.run("plot", *args, "-o", "result.svg", code=code)
        require(word in run.err and len(run.err.splitlines()) == 1, f"{run}")
        equal((run.out, cli.names()), ("", before), f"left by {run}")
    cli.run("plot", ADAPTER, code=USAGE)
    rest = draw(cli, "half.safetensors", "--skip-bad")
    equal([text for style, _, _, text in rest.texts if style == "mono"], ["b"],
          "what --skip-bad leaves")
    cli.run("plot", ADAPTER, "--dry-run")
    cli.run("plot", ADAPTER, "--dry-run", "-o", "-")
    equal(cli.names(), before, "files after a dry run")


def check_full_disk(cli):
    """A file that cannot be written is not there, nor is a part of it."""
    before = cli.names()
    run = cli.suite.run("plot", cli.folder / ADAPTER, "-o",
                        cli.folder / "result.svg", code=FAILED, largest=4096)
    require("result.svg" in run.err, f"{run}")
    equal(cli.names(), before, "files")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    cli = Cli(suite)
    for name, check in (("singular values", check_values),
                        ("energy kept", check_kept),
                        ("effective ranks", check_used),
                        ("rank 1", check_one_value),
                        ("several files", check_several),
                        ("extremes", check_extremes),
                        ("escapes", check_escapes),
                        ("bytes", check_bytes),
                        ("refused", check_refused),
                        ("full disk", check_full_disk)):
        with suite.case(name):
            check(cli)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
