"""`pip install ./bindings/python` in a clean environment, and the source
distribution in another: what is installed works, and is all there. Needs pip
and the build tools it fetches; skipped where it cannot have them."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import bindinglib
import support
from support import equal, require

TIMEOUT = 300
SKIP = 77

suite = support.Suite(__doc__.splitlines()[0])

TRY = """
import sys
import liblora
path, expected, own = sys.argv[1:]
assert liblora.__file__.startswith(sys.prefix), liblora.__file__
assert liblora.library_version() == liblora.__version__
assert liblora.supports("threads") and liblora.supports("simd")
adapter = liblora.open(path)
adapter.resize(rank=2).save(own)
with open(expected, "rb") as one, open(own, "rb") as other:
    assert one.read() == other.read()
"""


def run(*command, cwd=None):
    """Run a command without what this program has set up for itself."""
    keep = {key: value for key, value in os.environ.items()
            if key not in ("LORA_LIBRARY", "PYTHONPATH", "LD_PRELOAD")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=keep,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=TIMEOUT, check=False)
    return done.returncode, done.stdout


def must(*command, **more):
    code, out = run(*command, **more)
    require(code == 0, f"{' '.join(map(str, command))}: exit {code}\n{out}")
    return out


def make_environment(name):
    """The Python of a new environment; None where there can be none."""
    folder = suite.path(name)
    code, out = run(sys.executable, "-m", "venv", folder)
    if code:
        print(f"no environments here: {out}")
        return None
    return folder / "bin/python"


def copy_checkout():
    """What a build reads, elsewhere: a source distribution leaves its sources
    in its folder."""
    folder = suite.path("checkout")
    for name in ("bindings/python", "include", "lib"):
        shutil.copytree(support.ROOT / name, folder / name,
                        ignore=shutil.ignore_patterns(
                            "__pycache__", "vendor", "dist"))
    shutil.copy(support.ROOT / "LICENSE", folder)
    return folder / "bindings/python"


def try_installed(python, path):
    """The installed package gives what the program gives."""
    expected, own = suite.path("expected"), suite.path("own")
    suite.run("resize", path, "-o", expected, "--rank", 2, "--quiet",
              "--force", "--backend", "builtin")
    own.unlink(missing_ok=True)
    script = suite.path("try.py")
    script.write_text(TRY, "utf-8")
    must(python, "-B", script, path, expected, own)


def try_wheel(python, path):
    """Install from the checkout, with a build of its own."""
    must(python, "-m", "pip", "install", "--quiet", bindinglib.PACKAGE)
    try_installed(python, path)
    listed = must(python, "-m", "pip", "show", "--files", "liblora-py")
    for name in ("liblora.so", "py.typed", "_ffi.py", "LICENSE"):
        require(name in listed, f"{name} is installed")
    require("vendor" not in listed and ".c\n" not in listed, listed)
    must(python, "-m", "pip", "uninstall", "--quiet", "--yes", "liblora-py")


def try_source_distribution(python, path):
    """It has all that it needs, and its wheel fits every Python 3."""
    package, dist = copy_checkout(), suite.path("dist")
    must(python, "-m", "pip", "install", "--quiet", "scikit-build-core>=0.10")
    backend = "import scikit_build_core.build as b, sys; print(b.build_sdist("
    must(python, "-c", f"{backend}sys.argv[1]))", dist, cwd=package)
    archive, = dist.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {pathlib.PurePath(name).relative_to(archive.name[:-7])
                 for name in tar.getnames()}
    have = {str(name) for name in names}
    need = {"vendor/lora.c", "vendor/lora.h", "vendor/LICENSE", "PKG-INFO",
            "CMakeLists.txt", "src/liblora/_ffi.py", "src/liblora/py.typed"}
    equal(sorted(need - have), [], "missing from the source distribution")
    shutil.rmtree(package.parent.parent)
    must(python, "-m", "pip", "wheel", "--quiet", "--no-deps",
         "--no-build-isolation", "-w", dist, archive)
    wheel, = dist.glob("*.whl")
    require("-py3-none-" in wheel.name, wheel.name)
    with zipfile.ZipFile(wheel) as packed:
        require("liblora/liblora.so" in packed.namelist(), "library")
    must(python, "-m", "pip", "install", "--quiet", wheel)
    try_installed(python, path)


def main():
    python = make_environment("environment")
    code, out = (1, "no venv") if python is None else run(
        python, "-m", "pip", "download", "--quiet", "--no-deps", "-d",
        suite.path("probe"), "scikit-build-core>=0.10")
    if code or shutil.which("cc") is None:
        print(f"cannot run here: {out.strip()[-300:]}")
        shutil.rmtree(suite.folder, ignore_errors=True)
        sys.exit(SKIP)
    path, _ = bindinglib.write_adapter(suite)
    for attempt in (try_wheel, try_source_distribution):
        with suite.case(attempt.__name__):
            attempt(python, path)
    sys.exit(suite.finish())


main()
