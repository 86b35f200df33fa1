#!/usr/bin/env python3
"""Write the library as one C file and one header, for hosts that vendor it.

    python3 lib/tools/amalgamate.py -o DIR [--line]

    lora.h   the public headers, in the order of include/lora/lora.h
    lora.c   the sources of lib/sources.txt but openblas/: no dependency

`cc -c lora.c` is all it takes (link with -lm, and -pthread unless
LORA_NO_THREADS is defined). Equal sources give equal bytes.

How lora.c is put together:

  - Feature macros (_POSIX_C_SOURCE ...) go to the top, the highest value of
    each, as only the first system header asks for them.
  - Internal headers come next, each once, after those that it includes; so it
    does not matter under which condition a source includes them. A header
    without include guard is a template: it is put where it is included.
  - Sources follow in the order of the list. LORA_PRIVATE is `static` there,
    so that only public names remain global.
"""

import argparse
import hashlib
import pathlib
import re
import sys

from version import read_version

ROOT = pathlib.Path(__file__).resolve().parents[2]

INCLUDE = re.compile(r'\s*#\s*include\s+(?:"([^"]+)"|<(lora/[^>]+)>)')
FEATURE = re.compile(
    r"\s*#\s*define\s+"
    r"(_(?:(?:POSIX_C|XOPEN|GNU|DEFAULT|DARWIN_C|BSD)_SOURCE"
    r"|FILE_OFFSET_BITS))(?:\s+(\w+))?\s*$")
GUARD = re.compile(r"#ifndef (\w+_H)\n#define \1\n")

SOURCE_HEAD = """\
/* Linkage of names shared between the files below. */
#define LORA_PRIVATE static LORA__UNUSED

#include "lora.h"
"""


class AmalgamationError(Exception):
    """The tree is not in the form that this program expects."""


class Amalgamation:
    """Gathers files below `root`; `line` adds #line directives."""

    def __init__(self, root=ROOT, line=False):
        self.root = pathlib.Path(root)
        self.line = line
        self.features = {}
        self.done = set()
        self.hash = hashlib.sha256()

    def read(self, path):
        data = (self.root / path).read_bytes()
        self.hash.update(path.encode() + b"\0" + data + b"\0")
        return data.decode("utf-8")

    def sources(self):
        lines = self.read("lib/sources.txt").splitlines()
        names = [line.split("#")[0].strip() for line in lines]
        return [f"lib/{name}" for name in names
                if name and not name.startswith("openblas/")]

    def resolve(self, including, match):
        """The path, below root, that an include line means."""
        if match.group(2):
            path = f"include/{match.group(2)}"
        else:
            beside = str(pathlib.PurePosixPath(including).parent)
            path = f"{beside}/{match.group(1)}"
            if not (self.root / path).is_file():
                path = f"lib/{match.group(1)}"
        if not (self.root / path).is_file():
            raise AmalgamationError(f"{including}: {match.group(0).strip()}"
                                    " is not in the tree")
        return path

    def mark(self, path, number):
        return [f'#line {number} "{path}"'] if self.line else []

    def is_template(self, path):
        return not GUARD.search((self.root / path).read_text("utf-8"))

    def body(self, path, public):
        """Lines of a file, its includes resolved: public headers are inlined
        into lora.h, internal ones are already there in lora.c."""
        lines = self.mark(path, 1)
        for number, text in enumerate(self.read(path).splitlines(), 1):
            include = INCLUDE.match(text)
            feature = FEATURE.match(text)
            if include:
                target = self.resolve(path, include)
                if public:
                    lines += self.once(target) + self.mark(path, number + 1)
                elif target.startswith("lib/") and self.is_template(target):
                    lines += self.file(target, public)
                    lines += self.mark(path, number + 1)
                else:
                    lines += [""] if self.line else []
            elif feature:
                name, value = feature.groups()
                self.features[name] = max(self.features.get(name, ""),
                                          value or "1")
                lines += [""] if self.line else []
            else:
                lines.append(text)
        return lines

    def file(self, path, public):
        return ["", f"/* ---- {path} ---- */", ""] + self.body(path, public)

    def once(self, path):
        if path in self.done:
            return []
        self.done.add(path)
        return self.file(path, public=True)

    def headers(self, path, lines):
        """Append the internal headers that a file needs, those that they
        need first."""
        for text in (self.root / path).read_text("utf-8").splitlines():
            include = INCLUDE.match(text)
            if not include:
                continue
            target = self.resolve(path, include)
            if target in self.done or target.startswith("include/"):
                continue
            self.done.add(target)
            self.headers(target, lines)
            if not self.is_template(target):
                lines += self.file(target, public=False)

    def stamp(self, what):
        return (f"/* liblora {read_version()}: {what}.\n"
                " *\n"
                " * Generated by amalgamate.py; change the sources instead.\n"
                f" * SHA-256 of the sources: {self.hash.hexdigest()}\n"
                " */\n")

    def build(self):
        """The texts of lora.h and lora.c."""
        header = self.once("include/lora/lora.h")
        source = []
        sources = self.sources()
        for path in sources:
            self.headers(path, source)
        for path in sources:
            source += self.file(path, public=False)
        features = "".join(
            f"#ifndef {name}\n#define {name} {value}\n#endif\n"
            for name, value in sorted(self.features.items()))
        return {
            "lora.h": self.stamp("the public interface") + self.text(header),
            "lora.c": (self.stamp("the library in one file") + "\n" + features
                       + "\n" + SOURCE_HEAD + self.text(source)),
        }

    def text(self, lines):
        """Join lines; runs of empty lines become one, unless lines count."""
        text = "\n".join(lines) + "\n"
        return text if self.line else re.sub(r"\n{3,}", "\n\n", text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", metavar="DIR", required=True,
                        help="folder to write lora.c and lora.h to")
    parser.add_argument("--line", action="store_true",
                        help="#line directives, so that compilers and "
                             "debuggers name the original files")
    arguments = parser.parse_args()
    out = pathlib.Path(arguments.o)
    try:
        files = Amalgamation(line=arguments.line).build()
    except AmalgamationError as error:
        sys.exit(f"amalgamate.py: {error}")
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
