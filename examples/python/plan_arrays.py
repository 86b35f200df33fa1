"""Put an adapter into weights that lie in arrays, and take it out again, as a
host does with those of its model.

    python3 plan_arrays.py file.safetensors 0.8

The arrays here are zeros in float32, so that they become the change itself.
"""
import sys

import liblora
import numpy as np


def main():
    if len(sys.argv) != 3:
        print("usage: plan_arrays FILE STRENGTH", file=sys.stderr)
        return 2
    try:
        with liblora.open(sys.argv[1]) as adapter:
            weights = {f"{module['target']}.weight":
                       np.zeros(module["shape"], np.float32)
                       for module in adapter.modules}
            plan = liblora.Plan(weights)
            plan.add(adapter, float(sys.argv[2]))
            plan.run()
    except liblora.LoraError as error:
        print(error, file=sys.stderr)
        return 1
    for name, weight in weights.items():
        print(f"{name}: changed by {np.linalg.norm(weight):.6g}")
    plan.restore()
    print(f"{sum(map(np.count_nonzero, weights.values()))} numbers differ")
    return 0


sys.exit(main())
