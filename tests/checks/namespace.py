#!/usr/bin/env python3
"""Two copies of the library, under different prefixes, in one program."""

import sys

import checklib

# One copy's half of the program; PREFIX is what the other file calls it by.
HALF = """\
#include "lora.h"
#include <string.h>

int PREFIX_works(void);
int PREFIX_works(void)
{
    lora_context *context = NULL;
    lora_status status = lora_context_create(&context, NULL, NULL);

    lora_context_destroy(context);
    return status == LORA_OK &&
           strcmp(lora_version_string(), LORA_VERSION_STRING) == 0;
}
"""

MAIN = """\
int one_works(void);
int two_works(void);
int main(void)
{
    return one_works() && two_works() ? 0 : 1;
}
"""


def main():
    arguments = checklib.arguments()
    checks = checklib.Checks()
    folder = checklib.scratch(arguments.build, "namespace")
    checks.run("amalgamate",
               [sys.executable, "-B",
                checklib.ROOT / "lib/tools/amalgamate.py", "-o", folder])
    compiler = checklib.compilers()[0][0]
    (folder / "main.c").write_text(MAIN, "utf-8")
    objects = []
    for prefix in ("one", "two"):
        half = folder / f"{prefix}.c"
        half.write_text(HALF.replace("PREFIX", prefix), "utf-8")
        for source in (half, folder / "lora.c"):
            thing = folder / f"{prefix}_{source.stem}.o"
            checks.run(f"{prefix}: {source.name}",
                       [compiler, f"-DLORA_NAMESPACE={prefix}_", "-c",
                        source, "-o", thing])
            objects.append(thing)
        names = checklib.run(["nm", "-g", "--defined-only",
                              objects[-1]]).stdout
        names = {line.split()[2] for line in names.splitlines()}
        wanted = {f"{prefix}_{name}"
                  for name in checklib.exported_functions()}
        checks.check(names == wanted, f"{prefix}: every name has the prefix",
                     str(names ^ wanted))
    program = folder / "program"
    checks.run("link", [compiler, folder / "main.c", *objects,
                        "-o", program, "-lm", "-pthread"])
    checks.run("run", [program])
    checks.finish()


main()
