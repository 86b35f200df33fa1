//! What an adapter file is: `cargo run --example info FILE`

use std::process::ExitCode;

use liblora::{Adapter, Context, Details, Result};

fn print(path: &str) -> Result<()> {
    let adapter = Adapter::open(&Context::new()?, path)?;
    let info = adapter.info()?;
    println!("{path}: {}, {} tensors", info.container, adapter.tensor_count());
    if !info.family.is_empty() {
        println!("base model {}, {:.0} % sure", info.family, 100.0 * info.confidence);
    }
    for module in adapter.modules() {
        let (target, kind, rank) = (module.target, module.kind, module.rank);
        println!("{target}: {kind} of rank {rank} for {:?}", module.shape);
    }
    for problem in adapter.describe(Details::default())?.problems() {
        println!("{}: {}", problem.subject, problem.message);
    }
    Ok(())
}

fn main() -> ExitCode {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    if paths.is_empty() {
        eprintln!("usage: info FILE...");
        return ExitCode::from(2);
    }
    let mut code = ExitCode::SUCCESS;
    for path in &paths {
        if let Err(error) = print(path) {
            eprintln!("{error}");
            code = ExitCode::FAILURE;
        }
    }
    code
}
