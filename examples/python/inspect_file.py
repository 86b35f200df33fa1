"""List the modules of an adapter file, as ../inspect.c does.

    python3 inspect_file.py file.safetensors
"""
import sys

import liblora


def main():
    if len(sys.argv) != 2:
        print("usage: inspect_file FILE", file=sys.stderr)
        return 2
    try:
        with liblora.open(sys.argv[1]) as adapter:
            info = adapter.info()
            print(f"{info['container']}, "
                  f"base {info['base']['family'] or 'unknown'}, "
                  f"{len(adapter.modules)} modules")
            for module in adapter.modules:
                print(f"{module['target']}: {module['kind']}, "
                      f"rank {module['rank']}, {module['dtype']}, "
                      f"x {module['scale']:g}")
    except liblora.LoraError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


sys.exit(main())
