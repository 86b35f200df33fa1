"""What the tests of the Python package share: loading it from the tree with
the library of the build folder, and adapters to try it on."""

import itertools
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import KOHYA, tensor  # noqa: E402

PACKAGE = support.ROOT / "bindings/python"
SOURCES = PACKAGE / "src"

UNET = "lora_unet_down_blocks_0_attentions_0_"
LINEAR = UNET + "transformer_blocks_0_attn1_to_q"
NARROW = UNET + "transformer_blocks_0_attn2_to_k"
PROJECTION = UNET + "proj_in"
CONVOLUTION = "lora_unet_down_blocks_0_resnets_0_conv1"


def raises(kind, action, /, *arguments, **more):
    """The exception that a call must raise."""
    try:
        action(*arguments, **more)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def library(build):
    """The shared library in a build folder."""
    found = [path for pattern in ("liblora.so", "liblora.so.*")
             for path in sorted(pathlib.Path(build).resolve().glob(pattern))]
    if not found:
        sys.exit(f"there is no liblora.so in {build}")
    return found[0]


def preload(path):
    """Libraries that must be there before a sanitized one."""
    needed = subprocess.run(["ldd", str(path)], capture_output=True,
                            text=True, check=False).stdout
    return [line.split()[2] for line in needed.splitlines()
            if line.strip().startswith(("libasan", "libubsan", "libtsan"))]


def load(suite):
    """The package, over the library of the build folder. Where that is
    sanitized, this program starts itself anew under the sanitizer."""
    path = library(suite.args.build)
    first = preload(path)
    if first and "LD_PRELOAD" not in os.environ:
        suite.folder.rmdir()
        os.environ["PYTHONMALLOC"] = "malloc"
        os.environ["LD_PRELOAD"] = ":".join(first)
        # Python itself leaks by intention.
        os.environ["ASAN_OPTIONS"] = "detect_leaks=0"
        os.execv(sys.executable, [sys.executable, "-B", *sys.argv])
    os.environ["LORA_LIBRARY"] = str(path)
    os.environ["PYTHONPATH"] = str(SOURCES)
    sys.path.insert(0, str(SOURCES))
    import liblora
    return liblora


def run_python(suite, text, *arguments, timeout=60, **more):
    """Run a Python text in a process of its own; its output."""
    script = suite.path(f"script-{next(_scripts)}.py")
    script.write_text(text, "utf-8")
    done = subprocess.run([sys.executable, "-B", str(script),
                           *map(str, arguments)], capture_output=True,
                          text=True, timeout=timeout, check=False, **more)
    support.require(done.returncode == 0,
                    f"exit {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


_scripts = itertools.count(1)


def module(rng, name, out, in_, rank, alpha, kernel=(), dtype="F32"):
    """The tensors of a LoRA module."""
    ones = (1,) * len(kernel)
    return {
        name + KOHYA["up"]: tensor(
            rng.standard_normal((out, rank) + ones), dtype),
        name + KOHYA["down"]: tensor(
            rng.standard_normal((rank, in_) + kernel), dtype),
        name + KOHYA["alpha"]: tensor(np.float64(alpha), "F32"),
    }


def adapter_tensors(seed=1):
    """An adapter with linear layers and convolutions, in several types."""
    rng = np.random.default_rng(seed)
    return {
        **module(rng, LINEAR, 48, 32, 8, 4.0),
        **module(rng, NARROW, 32, 24, 4, 4.0, dtype="F16"),
        **module(rng, PROJECTION, 32, 32, 6, 3.0, (1, 1), dtype="BF16"),
        **module(rng, CONVOLUTION, 24, 16, 5, 2.5, (3, 3)),
    }


METADATA = {"note": "ünï", "ss_base_model_version": "sd_v1-5"}


def write_adapter(suite, name="adapter.safetensors", seed=1):
    """(path, tensors) of a new file."""
    tensors = adapter_tensors(seed)
    path = suite.path(name)
    support.write_file(path, tensors, METADATA)
    return path, tensors


def same(got, expected, what):
    """Bytes are equal; a difference is not printed in full."""
    support.require(bytes(got) == bytes(expected), f"{what}: other bytes")


def have(program):
    if shutil.which(program) is None:
        support.skip(f"needs {program}")
    return program
