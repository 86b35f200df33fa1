#!/usr/bin/env python3
"""Files of very many modules, as an author of bad intent makes them: no verb
takes the square of the time of as many ordinary ones.

Comparing all with all takes five times the bound and more, once through takes
a third of it; sanitized programs are slow.
"""

import json
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import require, tensor  # noqa: E402

SECONDS, SANITIZED_SLOWER = 3.0, 10
COUNT = 50000
DEEP_COUNT, DEEP_PARTS = 50, 30000


def write_peft(path, names, config):
    """A file of PEFT with a 1 x 1 LoRA for each name."""
    one = tensor(np.ones((1, 1), "<f2"))
    support.write_file(
        path,
        {f"base_model.model.{name}.lora_{half}.weight": one
         for name in names for half in "AB"},
        {"lora_adapter_metadata": json.dumps(config)})


def run(suite, *command):
    made = suite.run(*command)
    slower = (SANITIZED_SLOWER if b"__asan" in
              pathlib.Path(suite.program).read_bytes() else 1)
    require(made.seconds < SECONDS * slower, f"took {made.seconds} s: {made}")
    return made


def check_distinct(suite):
    """Each module has an alpha of its own."""
    names = [f"layers.{i}.q_proj" for i in range(COUNT)]
    alphas = {name: i + 1 for i, name in enumerate(names)}
    path = suite.path("distinct.safetensors")
    write_peft(path, names,
               {"r": 1, "lora_alpha": 1, "alpha_pattern": alphas})
    made = run(suite, "info", path)
    require(f"1 (1), 2 (1), 3 (1), 4 (1), 5 (1), 6 (1), 7 (1), 8 (1), "
            f"{COUNT - 8} more" in made.out, made.out)

    half = suite.path("half.safetensors")
    run(suite, "convert", path, "-o", half, "--dtype", "bf16")
    run(suite, "resize", path, "-o", suite.path("ranks.safetensors"),
        "--rank", "1")
    run(suite, "check", path)
    _, metadata = support.read_file(half)
    kept = json.loads(metadata["lora_adapter_metadata"])
    got = {name: kept["alpha_pattern"].get(name, kept["lora_alpha"])
           for name in names}
    require(got == alphas, "other alphas after a conversion")


def check_deep(suite):
    """Paths of very many parts, and a pattern for the end of one, another for
    all of one."""
    path = suite.path("deep.safetensors")
    names = [".".join(["a"] * DEEP_PARTS) + str(i) for i in range(DEEP_COUNT)]
    write_peft(path, names,
               {"r": 1, "lora_alpha": 1,
                "alpha_pattern": {"a.a1": 3, names[2]: 5}})
    made = run(suite, "info", path, "--json", "--modules")
    alphas = {module["target"]: module["alpha"]
              for module in json.loads(made.out)["modules"]}
    want = {name: 1 for name in names} | {names[1]: 3, names[2]: 5}
    require(alphas == want, sorted(alphas.values()))


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    with suite.case("an alpha for each module"):
        check_distinct(suite)
    with suite.case("paths of many parts"):
        check_deep(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
