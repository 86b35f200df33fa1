"""What the scripts in this folder share: arguments, counting, running."""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Exit code for "this test cannot run here".
SKIP = 77

WARNINGS = """-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wcast-qual
    -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wvla -Wformat=2
    -Wdouble-promotion -Werror""".split()


def arguments():
    """The arguments every Python test gets, paths made absolute."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lora", default="build/lora", help="the program")
    parser.add_argument("--build", default="build", help="build folder")
    result = parser.parse_args()
    result.lora = pathlib.Path(result.lora).resolve()
    result.build = pathlib.Path(result.build).resolve()
    return result


class Checks:
    """Counts outcomes and says, at the end, how many there were."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def check(self, good, what, detail=""):
        if good:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAIL {what}")
            if detail:
                print(detail.rstrip())
        return good

    def skip(self, what):
        self.skipped += 1
        print(f"skip {what}")

    def run(self, what, command, **options):
        """A command that must succeed; its output, or None."""
        result = run(command, **options)
        shown = " ".join(map(str, command))
        good = self.check(result.returncode == 0, what,
                          f"$ {shown}\n{result.stdout}")
        return result.stdout if good else None

    def finish(self):
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        print(f"{self.passed} passed, {self.failed} failed{skipped}")
        if self.failed:
            sys.exit(1)
        sys.exit(SKIP if self.skipped and not self.passed else 0)


def run(command, **options):
    """Run a command; stdout and stderr come back as one text. A program that
    is not there, or that a signal ends, has failed."""
    command = [str(part) for part in command]
    try:
        return subprocess.run(command, text=True, check=False,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, **options)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, f"{error}\n")


def compilers():
    """C compilers that are here, each with its C++ sibling or None."""
    found = []
    for c_names, cxx_names in ((("gcc", "cc"), ("g++",)),
                               (("clang", "clang-14"),
                                ("clang++", "clang++-14"))):
        c = next(filter(shutil.which, c_names), None)
        cxx = next(filter(shutil.which, cxx_names), None)
        if c:
            found.append((c, cxx))
    return found


def scratch(build, name):
    """A fresh folder for a test's products."""
    folder = build / "checks" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def read_list(path):
    """The lines of one of our lists, without comments."""
    lines = (line.split("#")[0].strip()
             for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line]


def library_sources():
    """Every source of the list, openblas/ included, below ROOT."""
    return [ROOT / "lib" / name for name in read_list(ROOT / "lib/sources.txt")]


def c_files(*folders):
    """All .c and .h files below some folders of the tree."""
    return sorted(path for folder in folders
                  for path in (ROOT / folder).rglob("*.[ch]"))


def relative(path):
    return path.relative_to(ROOT).as_posix()


def strip_c(text, strings=True):
    """C text with comments, and the insides of strings, blanked out; line
    numbers stay."""
    def blank(match):
        if match.group(0).startswith("/*"):
            return re.sub(r"[^\n]", " ", match.group(0))
        return '""' if strings and match.group(0)[0] == '"' else match.group(0)

    return re.sub(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'',
                  blank, text, flags=re.S)


def environment(**changes):
    return {**os.environ, **{key: str(value)
                             for key, value in changes.items()}}


def public_names():
    """Names of lib/abi/symbols.txt -> kind."""
    rows = read_list(ROOT / "lib/abi/symbols.txt")
    return {row.split()[0]: row.split()[1] for row in rows}


def exported_functions():
    return {name for name, kind in public_names().items() if kind == "func"}
