#!/usr/bin/env python3
"""Every #include of the library is one that lib/layers.txt allows, and the
program includes nothing of the library but its public headers."""

import re

import checklib

INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.M)


def read_layers():
    layers = {}
    for line in checklib.read_list(checklib.ROOT / "lib/layers.txt"):
        folder, allowed = line.split(":")
        layers[folder.strip()] = {folder.strip(), *allowed.split()}
    return layers


def breaches(path, layer, layers):
    """Includes of a file below lib/ that its layer may not make."""
    for name in INCLUDE.findall(path.read_text("utf-8")):
        folder = name.split("/")[0]
        if "/" in name and folder in layers and folder not in layers[layer]:
            yield name


def main():
    checklib.arguments()
    checks = checklib.Checks()
    layers = read_layers()
    for path in checklib.c_files("lib"):
        name = checklib.relative(path)
        layer = name.split("/")[1]
        if not checks.check(layer in layers, f"{name}: no such layer"):
            continue
        wrong = list(breaches(path, layer, layers))
        checks.check(not wrong, f"{name} includes {', '.join(wrong)}")
    for path in checklib.c_files("src"):
        wrong = [name for name in INCLUDE.findall(path.read_text("utf-8"))
                 if name.split("/")[0] in layers]
        checks.check(not wrong, f"{checklib.relative(path)} includes "
                                f"{', '.join(wrong)}")
    checks.finish()


main()
