#!/usr/bin/env python3
"""What the documents say is so: their C compiles, their links lead somewhere,
and the tables of README.md name every verb, exit code, build option, kind,
dialect, family and limit that there is."""

import json
import re

import checklib

DOCUMENTS = ("README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md lib/README.md "
             "tests/README.md tests/fuzz/README.md examples/README.md").split()


def read(name):
    return (checklib.ROOT / name).read_text("utf-8")


def prose(text):
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(text):
    """The names that headings get."""
    heads = re.findall(r"^#+ (.+)", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-")
            for head in heads}


def check_links(checks, name):
    here = (checklib.ROOT / name).parent
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(read(name))):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (here / path).resolve() if path else checklib.ROOT / name
        good = target.exists() and target.is_relative_to(checklib.ROOT)
        if good and anchor:
            good = anchor in anchors(target.read_text("utf-8"))
        checks.check(good, f"{name}: link {link}")


def check_code(checks, name, folder):
    for i, code in enumerate(re.findall(r"^```c\n(.*?)^```", read(name),
                                        re.M | re.S)):
        source = folder / f"{name}-{i}.c"
        source.write_text(code, "utf-8")
        for compiler, _ in checklib.compilers():
            checks.run(f"{name}: C block {i + 1}, {compiler}",
                       [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror",
                        f"-I{checklib.ROOT / 'include'}", "-c", source,
                        "-o", folder / "block.o"])


def section(text, heading):
    """What stands under a heading of the second level."""
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text,
                     re.M | re.S)[1]


def column(text, pattern):
    """The first cells of table rows."""
    return set(re.findall(rf"^\| {pattern} \|", text, re.M))


def same(checks, what, documented, there):
    checks.check(documented == there and there,
                 f"{what}: differ in {sorted(documented ^ there)}")


def check_verbs(checks, lora):
    text = checklib.run([lora, "help"]).stdout
    listed = text.split("\nVerbs\n")[1].split("\n\n")[0]
    verbs = set(re.findall(r"^  (\w+) ", listed, re.M))
    table = section(read("README.md"), "What works in this version")
    same(checks, "verbs", column(table, r"`(\w+)`"), verbs)


def check_ids(checks):
    """Kinds, dialects and families, from the tables of the code."""
    text = section(read("README.md"), "What works in this version")
    rows = {row.split("|")[1].strip(): set(re.findall(r"`([^`]+)`", row))
            for row in text.splitlines() if row.startswith("|")}
    kinds = set()
    for path in (checklib.ROOT / "lib/adapter/kinds").glob("*.c"):
        kinds |= set(re.findall(r'lora__kind lora__kind_\w+ = \{\s*\.id = "(\w+)"',
                                path.read_text("utf-8")))
    same(checks, "kinds", rows["kinds"], kinds)
    dialects = set(re.findall(r'\[LORA__DIALECT_\w+\]\s*=\s*\{\s*"([^"]+)"',
                              read("lib/names/dialect.c")))
    same(checks, "dialects", rows["read and written"] |
         rows["read, and written as they are"], dialects)
    families = set(re.findall(r'\{"(\w+)", LORA__FAMILY_',
                              read("lib/names/family.c")))
    same(checks, "families", rows["base models"], families)


def check_numbers(checks):
    codes = set(re.findall(r"^\s+EXIT_\w+ = (\d+)", read("src/app.h"), re.M))
    same(checks, "exit codes",
         column(section(read("README.md"), "Exit codes"), r"(\d+)"), codes)
    defaults = dict(re.findall(r"uint64_t (\w+);.*default ([\d,]+)",
                               read("include/lora/context.h")))
    limits = section(read("SECURITY.md"), "Limits")
    for name, value in defaults.items():
        checks.check(value in limits, f"SECURITY.md: {name} is {value}")
    checks.check(len(defaults) == 4, f"limits of context.h: {defaults}")


def check_options(checks):
    text = section(read("README.md"), "Build options")
    cmake = set(re.findall(r"^(?:option\((LORA_\w+)|set\((?=LORA_\w+ .*CACHE)"
                           r"(LORA_\w+))", read("CMakeLists.txt"), re.M))
    cmake = {one or other for one, other in cmake}
    same(checks, "options of CMake", set(re.findall(r"`(LORA_\w+)`", text)),
         cmake)
    meson = set(re.findall(r"^option\('(\w+)'", read("meson_options.txt"),
                           re.M))
    checks.check(meson <= set(re.findall(r"`(\w+)`", text)),
                 f"options of Meson: {meson}")


def check_changelog(checks, lora):
    version = json.loads(checklib.run([lora, "version", "--json"]).stdout)
    releases = re.split(r"^## \[", read("CHANGELOG.md"), flags=re.M)[1:]
    top = releases[0].split("]")[0]
    checks.check(top in version.values(), f"CHANGELOG.md begins with {top}")
    for release in releases:
        first = re.search(r"^### (.*)", release, re.M)
        checks.check(first and first[1] == "ABI",
                     f"CHANGELOG.md: {release.split(']')[0]}: ABI comes first")


def main():
    arguments = checklib.arguments()
    checks = checklib.Checks()
    folder = checklib.scratch(arguments.build, "readme")
    for name in DOCUMENTS:
        check_links(checks, name)
    for name in ("README.md", "CONTRIBUTING.md"):
        check_code(checks, name, folder)
    check_verbs(checks, arguments.lora)
    check_ids(checks)
    check_numbers(checks)
    check_options(checks)
    check_changelog(checks, arguments.lora)
    checks.finish()


main()
