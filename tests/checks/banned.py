#!/usr/bin/env python3
"""Functions and constructs that the code does without, each for a reason:

memory      everything goes through the context's allocator
unbounded   strcpy and the like cannot know how much room there is
locale      their text changes with the host's locale
process     a library does not end, print for or configure its host
types       the size of `long` differs between platforms
portable    GNU extensions belong into platform/compiler.h
"""

import re

import checklib

CALLS = {
    "memory": "malloc calloc realloc free aligned_alloc posix_memalign strdup",
    "unbounded": "strcpy strcat sprintf vsprintf gets alloca strtok",
    "locale": "strtod strtof strtold atof atoi atol setlocale localeconv",
    "process": "getenv setenv printf fprintf vprintf vfprintf puts fputs "
               "putchar abort exit _exit atexit assert signal raise",
}
WORDS = {
    "types": r"long(?!\s+long)(?<!long long)",
    "process": r"_Thread_local|__thread|thread_local",
    "portable": r"__attribute__|__builtin_\w+|__asm__|__typeof__|asm|typeof",
}

# The program is a process, prints, and owns its memory.
ONLY_LIBRARY = {"memory", "process", "types", "portable"}
PROGRAM_MAY = {"strtod"}

# The files that exist to use what others may not.
EXEMPT = {
    "include/lora/export.h": {"portable"},
    "lib/core/alloc.c": {"memory"},
    "lib/platform/atomic.c": {"types"},    # what MSVC's intrinsics take
    "lib/platform/compiler.h": {"portable"},
    "lib/platform/cpuid.c": {"portable"},  # an instruction, not a function
}


def findings(name, text, program):
    """(line, reason, word) of everything banned in a C text."""
    exempt = EXEMPT.get(name, set()) | (ONLY_LIBRARY if program else set())
    code = checklib.strip_c(text)
    patterns = [(reason, r"(?<![\w.>])(" + "|".join(words.split())
                 + r")\s*\(") for reason, words in CALLS.items()]
    patterns += [(reason, rf"\b({words})\b")
                 for reason, words in WORDS.items()]
    for reason, pattern in patterns:
        if reason in exempt:
            continue
        for match in re.finditer(pattern, code):
            word = match.group(1)
            if not (program and word in PROGRAM_MAY):
                yield code.count("\n", 0, match.start()) + 1, reason, word
    for match in re.finditer(r"//|^\s*#\s*if\s+0\b", code, re.M):
        yield (code.count("\n", 0, match.start()) + 1, "style",
               match.group(0).strip())
    for match in re.finditer(r"\b(TODO|FIXME|XXX)\b", text):
        yield text.count("\n", 0, match.start()) + 1, "style", match.group(1)


def main():
    checklib.arguments()
    checks = checklib.Checks()
    for path in checklib.c_files("lib", "include", "src"):
        name = checklib.relative(path)
        found = findings(name, path.read_text("utf-8"),
                         name.startswith("src/"))
        lines = [f"  {name}:{line}: {word} ({reason})"
                 for line, reason, word in sorted(found)]
        checks.check(not lines, name, "\n".join(lines))
    checks.finish()


if __name__ == "__main__":
    main()
