#!/usr/bin/env python3
"""Unit tests of lib/tools/amalgamate.py, on small trees of their own."""

import pathlib
import re
import sys
import tempfile
import unittest

import checklib

sys.path.insert(0, str(checklib.ROOT / "lib/tools"))
import amalgamate  # noqa: E402

TREE = {
    "include/lora/lora.h": """\
#ifndef LORA_LORA_H
#define LORA_LORA_H
#include <lora/export.h>
#include <lora/thing.h>
#endif
""",
    "include/lora/export.h": """\
#ifndef LORA_EXPORT_H
#define LORA_EXPORT_H
#ifdef LORA_NAMESPACE
#include <lora/rename.h>
#endif
#endif
""",
    "include/lora/rename.h": """\
#ifndef LORA_RENAME_H
#define LORA_RENAME_H
#define lora_thing JOIN(LORA_NAMESPACE, lora_thing)
#endif
""",
    "include/lora/thing.h": """\
/* A thing. */
#ifndef LORA_THING_H
#define LORA_THING_H
#include <lora/export.h>
#include <stdint.h>
int lora_thing(void);
#endif
""",
    "lib/core/base.h": """\
#ifndef LORA__CORE_BASE_H
#define LORA__CORE_BASE_H
#include <lora/thing.h>
#include <stddef.h>
LORA_PRIVATE int lora__base(void);
#endif
""",
    "lib/core/top.h": """\
#ifndef LORA__CORE_TOP_H
#define LORA__CORE_TOP_H
#include "core/base.h"
#endif
""",
    "lib/core/loop.h": """\
BODY(TYPE)
""",
    "lib/core/a.c": """\
/* File a. */
#define _POSIX_C_SOURCE 199309L
#include "core/top.h"
#include <string.h>
#define TYPE int
#include "core/loop.h"
#undef TYPE
#define TYPE float
#include "core/loop.h"
int after_the_includes;
""",
    "lib/core/b.c": """\
/* File b. */
#ifndef _WIN32
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "core/base.h"
#include <unistd.h>
#endif
""",
    "lib/openblas/blas.c": "int blas;\n",
    "lib/sources.txt": "# all\ncore/a.c\n\ncore/b.c\nopenblas/blas.c\n",
}


class AmalgamateTest(unittest.TestCase):
    def build(self, line=False, **changes):
        files = {**TREE, **{key.replace("__", "/").replace("_h", ".h"): value
                            for key, value in changes.items()}}
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text, "utf-8")
            result = amalgamate.Amalgamation(root, line).build()
        return result["lora.h"], result["lora.c"]

    def test_public_headers_once_and_in_order(self):
        header, _ = self.build()
        self.assertEqual(header.count("int lora_thing(void);"), 1)
        self.assertLess(header.index("define lora_thing"),
                        header.index("int lora_thing(void);"))
        self.assertNotIn("#include <lora/", header)

    def test_rename_stays_under_its_condition(self):
        header, _ = self.build()
        condition = header.index("#ifdef LORA_NAMESPACE")
        rename = header.index("define lora_thing")
        self.assertLess(condition, rename)
        between = header[condition:rename]
        opened = len(re.findall(r"^#if", between, re.M))
        closed = len(re.findall(r"^#endif", between, re.M))
        self.assertEqual(opened - closed, 2)  # the condition and the guard

    def test_internal_headers_once_and_first(self):
        _, source = self.build()
        self.assertEqual(source.count("int lora__base(void);"), 1)
        self.assertLess(source.index("int lora__base(void);"),
                        source.index("File a."))
        self.assertLess(source.index("lib/core/base.h ----"),
                        source.index("lib/core/top.h ----"))

    def test_no_project_include_is_left(self):
        _, source = self.build()
        self.assertEqual(re.findall(r'#include\s+"([^"]+)"', source),
                         ["lora.h"])
        self.assertIn("#include <unistd.h>", source)

    def test_header_without_guard_is_a_template(self):
        _, source = self.build()
        self.assertEqual(source.count("BODY(TYPE)"), 2)
        self.assertLess(source.index("#define TYPE int"),
                        source.index("BODY(TYPE)"))

    def test_feature_macros_go_to_the_top(self):
        _, source = self.build()
        self.assertEqual(source.count("#define _POSIX_C_SOURCE"), 1)
        self.assertIn("#define _POSIX_C_SOURCE 200809L", source)
        self.assertLess(source.index("#define _POSIX_C_SOURCE"),
                        source.index("#include"))

    def test_private_names_become_static(self):
        _, source = self.build()
        self.assertLess(source.index("#define LORA_PRIVATE static"),
                        source.index("LORA_PRIVATE int lora__base"))

    def test_openblas_is_left_out(self):
        _, source = self.build()
        self.assertNotIn("blas", source)

    def test_sources_in_the_order_of_the_list(self):
        _, source = self.build()
        self.assertLess(source.index("File a."), source.index("File b."))

    def test_equal_trees_give_equal_bytes(self):
        self.assertEqual(self.build(), self.build())

    def test_another_source_gives_another_stamp(self):
        stamp = re.compile(r"SHA-256 of the sources: (\w+)")
        other = dict(TREE)["lib/core/loop.h"] + "\n"
        first = stamp.search(self.build()[1]).group(1)
        self.assertNotEqual(
            first, stamp.search(self.build(lib__core__loop_h=other)[1])
            .group(1))

    def test_line_directives_name_the_original_line(self):
        _, source = self.build(line=True)
        lines = source.splitlines()
        at = lines.index("int after_the_includes;")
        marks = [(index, re.match(r'#line (\d+) "(.*)"', text))
                 for index, text in enumerate(lines[:at])]
        index, mark = [pair for pair in marks if pair[1]][-1]
        original = TREE["lib/core/a.c"].splitlines()
        self.assertEqual(mark.group(2), "lib/core/a.c")
        self.assertEqual(int(mark.group(1)) + at - index - 1,
                         original.index("int after_the_includes;") + 1)

    def test_missing_include_is_an_error(self):
        with self.assertRaises(amalgamate.AmalgamationError):
            self.build(lib__core__top_h='#ifndef A_H\n#define A_H\n'
                                        '#include "core/gone.h"\n#endif\n')


def main():
    checklib.arguments()
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(AmalgamateTest)
    result = unittest.TextTestRunner(sys.stdout).run(suite)
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
