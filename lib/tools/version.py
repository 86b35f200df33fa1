#!/usr/bin/env python3
"""Print the version that include/lora/version.h states; Meson asks."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]


def read_version(name="VERSION_STRING"):
    text = (ROOT / "include/lora/version.h").read_text(encoding="utf-8")
    return re.search(rf'#define LORA_{name} "([^"]+)"', text).group(1)


if __name__ == "__main__":
    print(read_version())
