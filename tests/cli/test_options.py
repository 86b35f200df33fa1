#!/usr/bin/env python3
"""Help, manual and completion say the same, and every option of every verb is
read: two runs that differ by the option alone must differ in what they print,
write, or answer.
"""

import re
import shutil
import subprocess
import sys

from program import (ADAPTER, AFTER, BASE, BEFORE, HERE, OUT, Cli, environment,
                     help_options, help_verbs, support)
from support import FAILED, MISMATCH, USAGE, equal, require

MANUAL = HERE.parent.parent / "src" / "man" / "lora.1"


# Help, manual, completion ---------------------------------------------------

def manual_sections():
    """{verb: {option: value}}, and "" for the common options."""
    sections, current = {}, None
    for line in MANUAL.read_text("utf-8").splitlines():
        verb = re.match(r"\.Ss lora (\w+)", line)
        if verb:
            current = sections.setdefault(verb[1], {})
        elif line.startswith(".Sh"):
            current = sections.setdefault("", {}) if "COMMON" in line else None
        option = re.match(r"\.It Fl (?:(\w) , )?-([\w-]+)(?: (.*))?$", line)
        if option and current is not None:
            letter, name, value = option.groups()
            value = re.sub(r"^(Ar|Cm) | Ns|\bAr ", "", value or "")
            value = re.sub(r" ([|=]) ", r"\1", value)
            current[name] = (letter or "", value)
    return sections


def check_manual(cli):
    sections = manual_sections()
    common, used = sections.pop(""), set()
    verbs = help_verbs(cli)
    equal(sorted(sections), sorted(verbs), "verbs in manual and help")
    for verb in verbs:
        own = sections[verb]
        for name, (letter, value) in help_options(cli, verb).items():
            used.add(name)
            told = own.pop(name, None) or common.get(name)
            require(told, f"--{name} of {verb} is not in the manual")
            equal((told[0], told[1].lower()), (letter, value.lower()),
                  f"--{name} of {verb} in manual and help")
        equal(own, {}, f"options of {verb} in the manual alone")
    equal(set(common) - used, set(), "common options in the manual alone")


def check_help(cli):
    for verb in help_verbs(cli):
        run = cli.run("help", verb)
        equal(cli.run(verb, "--help").out, run.out, f"{verb} --help")
        equal(run.err, "", f"stderr of help {verb}")
        text = run.out
        require(text.index("Examples") < text.index("Usage"),
                f"{verb}: examples come first")
        for line in text.splitlines():
            require(len(line) <= 80 or line.startswith("  lora "),
                    f"{verb}: long line {line!r}")
        example = re.findall(r"^  (lora .*)$", text.split("Usage")[0], re.M)
        require(example, f"{verb} has no example")
        for line in example:
            for name in re.findall(r"--([\w-]+)", line):
                require(name in help_options(cli, verb) or
                        line.split()[1] != verb, f"{line}: no --{name}")
    equal(cli.run("--help").out, cli.run("help").out, "lora --help")
    equal(cli.run("-h").out, cli.run("help").out, "lora -h")
    equal(cli.run("--version").out, cli.run("version").out, "lora --version")
    equal(cli.run(code=USAGE).out, cli.run("help").out, "lora alone")


def check_completion(cli):
    for shell in ("bash", "zsh", "fish"):
        text = cli.run("completion", shell).out
        for verb in help_verbs(cli):
            require(verb in text, f"{shell}: {verb}")
            for name in help_options(cli, verb):
                dash = f"-l {name} " if shell == "fish" else f"--{name}"
                require(dash in text, f"{shell}: --{name} of {verb}")
        tool = shutil.which(shell)
        if tool:
            flag = "--no-execute" if shell == "fish" else "-n"
            done = subprocess.run([tool, flag], input=text.encode(),
                                  capture_output=True)
            equal((done.returncode, done.stderr), (0, b""), f"{shell} syntax")
    script = ("source <(lora completion bash); COMP_WORDS=(lora resize %s); "
              "COMP_CWORD=2; _lora; echo ${COMPREPLY[@]}")
    for word, expected in (("--ene", "--energy"), ("--dry", "--dry-run")):
        done = subprocess.run(["bash", "-c", script % word], cwd=cli.folder,
                              env=environment(cli), capture_output=True)
        equal(done.stdout.decode().strip(), expected, f"bash completes {word}")


# Every option is read --------------------------------------------------------

def remove_results(cli):
    for path in cli.folder.glob("result*"):
        path.unlink()


def outcome(cli, args):
    """All that a run shows: code, streams, and what it wrote."""
    remove_results(cli)
    run = cli.run(*args, code=None)
    data = {path.name: path.read_bytes()
            for path in cli.folder.glob("result*")}
    # Times and memory are not part of an outcome.
    return run.code, run.out, re.sub(r"\d+ ms, at most .*", "", run.err), data


# Arguments that make an option of any verb matter: (added to both runs, added
# to one). An option that needs a terminal has a case of its own.
COMMON = {
    "json": ([], ["--json"]),
    "threads": (["--verbose"], ["--threads", "3"]),
    "memory": ([], ["--memory", "4K"]),
    "verbose": ([], ["--verbose"]),
    "quiet": (["--verbose"], ["--quiet"]),
    "help": ([], ["--help"]),
    "backend": (["--verbose", "--backend", "builtin"], ["--backend", "blas"]),
    "log-level": ([], ["--log-level", "nonsense"]),
    "output": ([], ["-o", "nowhere/result.safetensors"]),
    "dry-run": ([], ["--dry-run"]),
    "dtype": ([], ["--dtype", "bf16"]),
    "dialect": ([], ["--dialect", "diffusers"]),
    "metadata": ([], ["--metadata", "key=value"]),
    "no-metadata": ([], ["--no-metadata"]),
}

MADE = ["extract", BEFORE, AFTER, *OUT]
FIX = ["check", ADAPTER, "--fix"]
DORA = ["delta", "dora.safetensors", *OUT]
DORA_BASE = [*DORA, "--base", "dora-base.safetensors"]
FUSE_DORA = ["fuse", "dora-base.safetensors", "dora.safetensors:0.5", *OUT]
UNFUSE = ["unfuse", "selected.safetensors", "pairs.safetensors", "--undo",
          "selected.undo", *OUT]
CREATE = ["light", "create", *OUT, "--family", "sd15", "--target",
          "*mid_block*to_q"]

OWN = {
    ("info", "modules"): ([], ["--modules"]),
    ("info", "hash"): ([], ["--hash", "auto_v2"]),
    ("check", "strict"): (["unknown.safetensors"], ["--strict"]),
    ("check", "base"): ([], ["--base", "sdxl"]),
    ("check", "fix"): (OUT, ["--fix"]),
    ("bind", "base"): ([], ["--base", BEFORE]),
    ("bind", "family"): ([], ["--family", "sdxl"]),
    ("bind", "strict"): (["--family", "flux1_dev"], ["--strict"]),
    ("bind", "select"): ([], ["--select", "attn.self=0"]),
    ("hash", "all"): ([], ["--all"]),
    ("meta", "set"): ([], ["--set", "other=value"]),
    ("meta", "unset"): ([], ["--unset", "ss_*"]),
    ("meta", "room"): ([], ["--room", "4K"]),
    ("convert", "bake-alpha"): ([], ["--bake-alpha"]),
    ("convert", "family"): (["--dialect", "diffusers"],
                            ["--family", "nonsense"]),
    ("convert", "drop"): ([], ["--drop", "*attn1*"]),
    ("convert", "rank"): (["--as", "lora"], ["--rank", "1"]),
    ("convert", "energy"): (["--as", "lora"], ["--energy", "0.5"]),
    ("convert", "ratio"): (["--as", "lora"], ["--ratio", "1"]),
    ("convert", "threshold"): (["--as", "lora"], ["--threshold", "1e9"]),
    ("convert", "factor"): (["--as", "lokr"], ["--factor", "2"]),
    ("convert", "rank-prefix"): ([], ["--rank-prefix", "1"]),
    ("convert", "truncate"): (["--rank-prefix", "1"],
                              ["--truncate", "trained-sqrt"]),
    ("resize", "rank"): ([], ["--rank", "3"]),
    ("resize", "conv-rank"): ([], ["--conv-rank", "1"]),
    ("resize", "max-rank"): ([], ["--max-rank", "2"]),
    ("resize", "min-rank"): (["--rank", "1"], ["--min-rank", "3"]),
    ("resize", "module-rank"): ([], ["--module-rank", "*attn1*=1"]),
    ("resize", "pad"): (["--rank", "12"], ["--pad"]),
    ("resize", "split"): (["--rank", "3"], ["--split", "up"]),
    ("extract", "rank"): ([], ["--rank", "3"]),
    ("extract", "conv-rank"): ([], ["--conv-rank", "1"]),
    ("extract", "max-rank"): ([], ["--max-rank", "2"]),
    ("extract", "min-rank"): (["--rank", "1"], ["--min-rank", "3"]),
    ("extract", "module-rank"): ([], ["--module-rank", "*attn1*=1"]),
    ("extract", "split"): ([], ["--split", "up"]),
    ("extract", "kind"): ([], ["--kind", "lora"]),
    ("extract", "factor"): (["--kind", "lokr", "--dialect", "kohya"],
                            ["--factor", "2"]),
    ("extract", "include"): ([], ["--include", "*attn1*"]),
    ("extract", "exclude"): ([], ["--exclude", "*attn1*"]),
    ("extract", "clamp"): ([], ["--clamp", "0.9"]),
    ("extract", "exact"): (["--rank", "1"], ["--exact"]),
    ("extract", "no-metadata"): (["--dialect", "kohya"], ["--no-metadata"]),
    ("extract", "seed"): (["--rank", "1"], ["--seed", "3"]),
    ("extract", "dialect"): ([], ["--dialect", "kohya"]),
    ("fuse", "undo"): ([], ["--undo", "result.undo"]),
    ("fuse", "undo-mode"): (["--undo", "result.undo"],
                            ["--undo-mode", "predict"]),
    ("fuse", "strict"): (["third.safetensors"], ["--strict"]),
    ("fuse", "select"): ([], ["--select", "*_a=0.5"]),
    ("fuse", "stochastic"): ([], ["--stochastic"]),
    ("fuse", "seed"): (["--stochastic"], ["--seed", "3"]),
    ("fuse", "saturate"): ([], ["--saturate"]),
    ("fuse", "shard-size"): ([], ["--shard-size", "16"]),
    ("embed", "form"): ([], ["--form", "token"]),
    ("embed", "token"): ([], ["--token", "dog"]),
    ("embed", "family"): ([], ["--family", "sdxl"]),
    ("delta", "names"): ([ADAPTER], None),
    ("delta", "strength"): ([], ["--strength", "0.5"]),
    ("delta", "dtype"): ([], ["--dtype", "f64"]),
    ("light", "draws"): ([], ["--draws", "down_aux,up_aux"]),
    ("light", "variant"): ([], ["--variant", "2"]),
    ("light", "seed"): ([], ["--seed", "3"]),
    ("light", "family"): ([], ["--family", "nonsense"]),
    ("light", "base"): ([], ["--base", "nowhere.safetensors"]),
    ("light", "shape"): ([], ["--shape", "*=nonsense"]),
    ("light", "down-size"): ([], ["--down-size", "9"]),
    ("light", "up-size"): ([], ["--up-size", "5"]),
    ("light", "store"): ([], ["--store"]),
    ("light", "no-metadata"): ([], ["--no-metadata"]),
    ("plot", "what"): ([], ["--what", "nonsense"]),
    ("demo", "count"): ([], ["--count", "2"]),
    ("demo", "seed"): None,
}

# Rules that stand in place of --rank, files that --config and --skip-bad are
# about, and so on: whole command lines.
PAIRS = {
    ("resize", "energy"): (["resize", ADAPTER, *OUT, "--energy", "0.9"],
                           ["resize", ADAPTER, *OUT, "--energy", "0.99"]),
    ("resize", "ratio"): (["resize", ADAPTER, *OUT, "--ratio", "2"],
                          ["resize", ADAPTER, *OUT, "--ratio", "5"]),
    ("resize", "threshold"): (["resize", ADAPTER, *OUT, "--threshold", "0.1"],
                              ["resize", ADAPTER, *OUT, "--threshold", "0.3"]),
    ("resize", "cumulative"): (
        ["resize", ADAPTER, *OUT, "--cumulative", "0.6"],
        ["resize", ADAPTER, *OUT, "--cumulative", "0.9"]),
    ("resize", "kohya-count"): (
        ["resize", ADAPTER, *OUT, "--energy", "0.9"],
        ["resize", ADAPTER, *OUT, "--energy", "0.9", "--kohya-count"]),
    ("resize", "lycoris-count"): (
        ["resize", ADAPTER, *OUT, "--cumulative", "0.7"],
        ["resize", ADAPTER, *OUT, "--cumulative", "0.7", "--lycoris-count"]),
    ("resize", "size"): (["resize", ADAPTER, *OUT, "--size", "1.5MB"],
                         ["resize", ADAPTER, *OUT, "--size", "2MB"]),
    ("resize", "global-threshold"): (
        ["resize", ADAPTER, *OUT, "--global-threshold", "0.1"],
        ["resize", ADAPTER, *OUT, "--global-threshold", "0.3"]),
    ("resize", "base"): (
        ["resize", "dora.safetensors", *OUT, "--rank", "1", "--json"],
        ["resize", "dora.safetensors", *OUT, "--rank", "1", "--json", "--base",
         "dora-base.safetensors"]),
    ("resize", "keep-core"): (
        ["resize", "core.safetensors", *OUT, "--rank", "1"],
        ["resize", "core.safetensors", *OUT, "--rank", "1", "--keep-core"]),
    ("resize", "effective"): (["resize", ADAPTER, *OUT, "--rank", "3"],
                              ["resize", ADAPTER, *OUT, "--effective"]),
    ("resize", "knee"): (["resize", ADAPTER, *OUT, "--rank", "3"],
                         ["resize", ADAPTER, *OUT, "--knee"]),
    **{("extract", rule): ([*MADE, f"--{rule}", one],
                           [*MADE, f"--{rule}", other])
       for rule, one, other in (
           ("energy", "0.5", "0.99"), ("ratio", "2", "20"),
           ("threshold", "1", "0.1"), ("cumulative", "0.5", "0.9"),
           ("global-threshold", "1", "0.1"), ("size", "40K", "50K"))},
    ("extract", "effective"): ([*MADE, "--rank", "1"], [*MADE, "--effective"]),
    ("extract", "knee"): ([*MADE, "--rank", "1"], [*MADE, "--knee"]),
    ("extract", "kohya-count"): (
        [*MADE, "--energy", "0.9"],
        [*MADE, "--energy", "0.9", "--kohya-count"]),
    ("extract", "lycoris-count"): (
        [*MADE, "--cumulative", "0.7"],
        [*MADE, "--cumulative", "0.7", "--lycoris-count"]),
    ("extract", "skip-bad"): (
        ["extract", BEFORE, "after-nan.safetensors", *OUT, "--rank", "1"],
        ["extract", BEFORE, "after-nan.safetensors", *OUT, "--rank", "1",
         "--skip-bad"]),
    ("extract", "skip-shapes"): (
        ["extract", BEFORE, "after-shape.safetensors", *OUT, "--rank", "1"],
        ["extract", BEFORE, "after-shape.safetensors", *OUT, "--rank", "1",
         "--skip-shapes"]),
    ("light", "rank"): (CREATE, [*CREATE, "--rank", "3"]),
    ("light", "target"): (CREATE, [*CREATE, "--target", "*attn2.to_v"]),
    ("light", "std"): ([*CREATE, "--variant", "5"],
                       [*CREATE, "--variant", "5", "--std", "2"]),
    ("light", "dialect"): (CREATE, [*CREATE, "--dialect", "kohya"]),
    ("light", "skip-bad"): (
        ["light", "compress", "half.safetensors", *OUT, "--down-size", "1",
         "--up-size", "1"],
        ["light", "compress", "half.safetensors", *OUT, "--down-size", "1",
         "--up-size", "1", "--skip-bad"]),
    ("embed", "replace"): (
        ["embed", "insert", "bundle.safetensors", "token.safetensors", *OUT],
        ["embed", "insert", "bundle.safetensors", "token.safetensors", *OUT,
         "--replace"]),
    ("delta", "names"): (
        ["delta", "small.safetensors", *OUT, "--names", "stored"],
        ["delta", "small.safetensors", *OUT, "--names", "canonical"]),
    ("delta", "base"): (DORA, [*DORA, "--base", "dora-base.safetensors"]),
    ("delta", "weights"): (DORA_BASE, [*DORA_BASE, "--weights"]),
    ("delta", "strength-rule"): (
        [*DORA_BASE, "--strength", "0.5"],
        [*DORA_BASE, "--strength", "0.5", "--strength-rule", "interpolate"]),
    ("delta", "dora"): ([*DORA_BASE, "--strength", "0.5", "--dora", "peft"],
                        [*DORA_BASE, "--strength", "0.5", "--dora", "lycoris"]),
    ("delta", "skip-bad"): (["delta", "half.safetensors", *OUT],
                            ["delta", "half.safetensors", *OUT,
                             "--skip-bad"]),
    ("delta", "memory"): (["delta", ADAPTER, *OUT],
                          ["delta", ADAPTER, *OUT, "--memory", "4K"]),
    ("fuse", "strength-rule"): (
        FUSE_DORA, [*FUSE_DORA, "--strength-rule", "interpolate"]),
    ("fuse", "dora"): ([*FUSE_DORA, "--dora", "peft"],
                       [*FUSE_DORA, "--dora", "lycoris"]),
    ("unfuse", "select"): (UNFUSE, [*UNFUSE, "--select", "*_a=0.5"]),
    ("unfuse", "undo"): (
        ["unfuse", "fused.safetensors", "--undo", "fused.undo", *OUT],
        ["unfuse", "fused.safetensors", "--undo", "nowhere", *OUT]),
    ("resize", "skip-bad"): (
        ["resize", "half.safetensors", *OUT, "--rank", "1"],
        ["resize", "half.safetensors", *OUT, "--rank", "1", "--skip-bad"]),
    ("plot", "skip-bad"): (["plot", "half.safetensors", *OUT],
                           ["plot", "half.safetensors", *OUT, "--skip-bad"]),
    ("convert", "skip-bad"): (
        ["convert", "half.safetensors", *OUT, "--dtype", "bf16"],
        ["convert", "half.safetensors", *OUT, "--dtype", "bf16",
         "--skip-bad"]),
    ("convert", "base"): (
        ["convert", "dora.safetensors", *OUT, "--as", "lora"],
        ["convert", "dora.safetensors", *OUT, "--as", "lora", "--base",
         "dora-base.safetensors"]),
    ("convert", "as"): (
        ["convert", "loha.safetensors", *OUT],
        ["convert", "loha.safetensors", *OUT, "--as", "lora"]),
    ("meta", "rewrite"): (
        ["meta", ADAPTER, "--unset", "*", "--dry-run", "--json"],
        ["meta", ADAPTER, "--unset", "*", "--dry-run", "--json",
         "--rewrite"]),
    ("check", "output"): ([*FIX, *OUT],
                          [*FIX, "-o", "nowhere/result.safetensors"]),
    ("check", "dry-run"): ([*FIX, *OUT], [*FIX, *OUT, "--dry-run"]),
    ("check", "skip-bad"): (
        ["check", "half.safetensors", "--fix", *OUT],
        ["check", "half.safetensors", "--fix", *OUT, "--skip-bad"]),
    ("version", "quiet"): (["version"], ["version", "--quiet"]),
    ("demo", "json"): (["demo", "--count", "1", "fresh"],
                       ["demo", "--count", "1", "fresh", "--json"]),
}

CONFIG = {
    "info": ["info", "peft", "--modules"],
    "keys": ["keys", "peft"],
    "check": ["check", "peft"],
    "bind": ["bind", "peft", "--family", "sd15"],
    "convert": ["convert", "peft", *OUT, "--dialect", "keep"],
    "resize": ["resize", "peft", *OUT, "--rank", "1", "--json"],
    "delta": ["delta", "peft", *OUT],
    "light": ["light", "compress", "peft", *OUT, "--down-size", "1",
              "--up-size", "1"],
    "plot": ["plot", "peft", *OUT],
}

TERMINAL = {"no-progress", "no-color"}

# Taken so that one set of options suits every verb; nothing to change there.
NOTHING = {(verb, "seed") for verb in BASE 
           if verb not in ("demo", "extract", "fuse", "light")}
NOTHING |= {(verb, word) for verb in ("help", "completion")
            for word in ("quiet", "verbose")} | {("version", "verbose")}


def option_pair(verb, name):
    """Two command lines that differ by an option alone."""
    if (verb, name) in PAIRS:
        return PAIRS[verb, name]
    if name == "config":
        base = CONFIG[verb]
        missing = ["--config", "nowhere.json"]
        return base, base + (missing if verb in ("keys", "check", "bind", "convert",
                                                 "light")
                             else ["--config", "config.json"])
    if name == "force":
        return None
    pair = OWN.get((verb, name)) or COMMON.get(name)
    require(pair, f"no case shows that --{name} of {verb} is read")
    both, one = pair
    return BASE[verb] + both, BASE[verb] + both + one


def check_option(cli, verb, name):
    if name == "force":
        check_force(cli, verb)
        return
    if name == "resume":
        (check_resume if verb == "extract" else check_resume_fuse)(cli)
        return
    if (verb, name) == ("demo", "seed"):
        check_seed(cli)
        return
    without, given = option_pair(verb, name)
    shown = []
    for args in (without, given):
        shutil.rmtree(cli.folder / "fresh", ignore_errors=True)
        shown.append(outcome(cli, args))
    shutil.rmtree(cli.folder / "fresh", ignore_errors=True)
    require(shown[0] != shown[1], f"--{name} of {verb} changes nothing")


def check_force(cli, verb):
    if verb == "demo":
        args = ["demo", "--count", "1", "fresh"]
        cli.run(*args)
    else:
        (cli.folder / "result.safetensors").write_bytes(b"old")
        args = [*FIX, *OUT] if verb == "check" else BASE[verb]
    require("--force" in cli.run(*args, code=FAILED).err, "hint at --force")
    cli.run(*args, "--force")
    shutil.rmtree(cli.folder / "fresh", ignore_errors=True)


def check_resume(cli):
    """A journal of another call is refused, and begun anew without it."""
    journal = cli.folder / "result.safetensors.journal"
    (cli.folder / "result.safetensors").unlink(missing_ok=True)
    run = cli.run("extract", BEFORE, "after-nan.safetensors", *OUT, "--rank",
                  "1", code=MISMATCH)
    require("--resume" in run.err and journal.exists(), run.err)
    require("nothing to resume" in cli.run(*MADE, "--rank", "2", "--resume",
                                           code=FAILED).err, "refused")
    cli.run(*MADE, "--rank", "2")
    require(not journal.exists(), "the journal is still there")


def check_resume_fuse(cli):
    """The same of fuse, where only runs with the option have a journal."""
    remove_results(cli)
    journal = cli.folder / "result.safetensors.journal"
    journal.write_bytes(b"LORAJRN1" + bytes(32))
    run = cli.run(*BASE["fuse"], "--resume", code=FAILED)
    require("nothing to resume" in run.err, run.err)
    cli.run(*BASE["fuse"])
    require(journal.exists(), "a run without --resume took the journal")


def check_seed(cli):
    data = []
    for seed in (0, 1, 1):
        shutil.rmtree(cli.folder / "fresh", ignore_errors=True)
        cli.run("demo", "--count", "1", "--seed", seed, "fresh")
        data.append((cli.folder / "fresh" / "demo-001.safetensors")
                    .read_bytes())
    shutil.rmtree(cli.folder / "fresh")
    require(data[0] != data[1], "the seed changes nothing")
    require(data[1] == data[2], "the same seed gives other files")


def check_options(cli, suite):
    small = {f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1"
             f"_to_q.lora_{side}.weight": support.tensor([[1.0] * 320] * 320)
             for side in ("down", "up")}
    support.write_file(cli.folder / "small.safetensors", small)
    loha = {f"lora_unet_a.hada_w{side}": support.tensor([[1.0] * 4] * 4)
            for side in ("1_a", "1_b", "2_a", "2_b")}
    support.write_file(cli.folder / "loha.safetensors", loha)
    dora = {"lora_unet_a.lora_down.weight": support.tensor([[1.0] * 3] * 2),
            "lora_unet_a.lora_up.weight": support.tensor([[0.5] * 2] * 4),
            "lora_unet_a.dora_scale": support.tensor([[2.0]] * 4)}
    support.write_file(cli.folder / "dora.safetensors", dora)
    support.write_file(cli.folder / "dora-base.safetensors", {
        "lora_unet_a.weight": support.tensor([[1.0, -1.0, 0.25]] * 4)})
    cli.run("fuse", "weights.safetensors", "pairs.safetensors", "-o",
            "selected.safetensors", "--undo", "selected.undo", "--undo-mode",
            "predict", "--select", "*_a=0.5")
    for verb in help_verbs(cli):
        for name in help_options(cli, verb):
            if name in TERMINAL or (verb, name) in NOTHING:
                continue
            with suite.case(f"option --{name} of {verb}"):
                check_option(cli, verb, name)
    (cli.folder / "small.safetensors").unlink()
    for name in ("loha", "dora", "dora-base", "selected"):
        (cli.folder / f"{name}.safetensors").unlink()
    (cli.folder / "selected.undo").unlink()
    remove_results(cli)


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    cli = Cli(suite)
    for name, check in (("help", check_help), ("manual", check_manual),
                        ("completion", check_completion)):
        with suite.case(name):
            check(cli)
    check_options(cli, suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
