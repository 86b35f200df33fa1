//! Where the C library comes from:
//!
//! 1. `LORA_LIB_DIR` names a folder with the library in it.
//! 2. The feature `vendored`, unless `LORA_NO_VENDOR=1` takes it back, as
//!    features only add: the sources are compiled. In a checkout these are
//!    those of `lib/sources.txt`; a packaged crate has the amalgamation.
//! 3. pkg-config.
//!
//! In 1 and 3, `LORA_STATIC=1` asks for the archive.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Some(folder) = variable("LORA_LIB_DIR") {
        link_with(&folder);
    } else if cfg!(feature = "vendored") && !is_set("LORA_NO_VENDOR") {
        compile();
    } else {
        find_installed();
    }
}

fn variable(name: &str) -> Option<String> {
    println!("cargo:rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn is_set(name: &str) -> bool {
    variable(name).map_or(false, |value| value != "0")
}

fn link_with(folder: &str) {
    println!("cargo:rustc-link-search=native={folder}");
    if is_set("LORA_STATIC") {
        println!("cargo:rustc-link-lib=static=lora");
        link_system_libraries();
        if cfg!(feature = "zlib") {
            println!("cargo:rustc-link-lib=z");
        }
    } else {
        println!("cargo:rustc-link-lib=dylib=lora");
    }
}

/// Until 1.0 each minor version may have another ABI.
fn find_installed() {
    let major = env!("CARGO_PKG_VERSION_MAJOR");
    let minor: u32 = env!("CARGO_PKG_VERSION_MINOR").parse().unwrap();
    let from = format!("{major}.{minor}");
    let below = format!("{major}.{}", minor + 1);
    let found = pkg_config::Config::new()
        .range_version(from.as_str()..below.as_str())
        .statik(is_set("LORA_STATIC"))
        .probe("lora");
    if let Err(error) = found {
        panic!("no installed liblora {from}; the feature `vendored` compiles it\n{error}");
    }
}

fn compile() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let checkout = here.ancestors().nth(3); // above bindings/rust/liblora-sys
    let mut build = cc::Build::new();

    match checkout.filter(|root| root.join("lib/sources.txt").is_file()) {
        Some(root) => add_sources(&mut build, root),
        None => add_amalgamation(&mut build, &here.join("vendor")),
    }
    if cfg!(feature = "zlib") {
        add_zlib(&mut build);
    }
    build
        // Results are defined bit by bit: no multiply-add but where C says so.
        .flag_if_supported("-std=c11")
        .flag_if_supported("-ffp-contract=off")
        .flag_if_supported("-fvisibility=hidden")
        // An unoptimized SVD helps nobody to debug a program in Rust.
        .opt_level(2)
        .compile("lora");
    link_system_libraries();
}

/// The sources of a checkout; liblora_openblas is a library of its own.
fn add_sources(build: &mut cc::Build, checkout: &Path) {
    let lib = checkout.join("lib");
    let list = fs::read_to_string(lib.join("sources.txt")).unwrap();
    let names = list.lines().map(|line| line.split('#').next().unwrap().trim());

    for name in names.filter(|name| !name.is_empty() && !name.starts_with("openblas/")) {
        build.file(lib.join(name));
    }
    for folder in [&lib, &checkout.join("include")] {
        println!("cargo:rerun-if-changed={}", folder.display());
        build.include(folder);
    }
}

fn add_amalgamation(build: &mut cc::Build, vendor: &Path) {
    let source = vendor.join("lora.c");
    assert!(source.is_file(), "{} is missing; README.md says how to package", source.display());
    println!("cargo:rerun-if-changed={}", vendor.display());
    build.include(vendor).file(source);
}

fn add_zlib(build: &mut cc::Build) {
    match pkg_config::probe_library("zlib") {
        Ok(zlib) => build.includes(zlib.include_paths),
        Err(error) => panic!("the feature `zlib` needs an installed zlib\n{error}"),
    };
    build.define("LORA_HAVE_ZLIB", None);
}

/// Threads come with Rust's own library.
fn link_system_libraries() {
    if env::var_os("CARGO_CFG_UNIX").is_some() {
        println!("cargo:rustc-link-lib=m");
    }
}
