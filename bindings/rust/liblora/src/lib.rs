//! Adapters of the LoRA family for diffusion models: open files whatever tool
//! wrote them, say what they are, check them, convert their names and number
//! types, lower their rank, compute their weight changes.
//!
//! ```no_run
//! use liblora::{Adapter, Context, ConvertOptions, RankRule};
//!
//! let context = Context::new()?;
//! let adapter = Adapter::open(&context, "style.safetensors")?;
//! for module in adapter.modules() {
//!     let change: Vec<f32> = module.delta(1.0)?; // of the shape module.shape
//!     println!("{}: {} numbers", module.target, change.len());
//! }
//! let (small, report) = adapter.resize(RankRule::Energy(0.98), &Default::default())?;
//! println!("{}", report.to_json());
//! let options = ConvertOptions { dialect: Some("diffusers".into()), ..Default::default() };
//! small.convert(&options)?.save("small.safetensors")?;
//! # Ok::<(), liblora::Error>(())
//! ```
//!
//! A thin layer: each type owns one object of C and each method is one call, or
//! two where a size is asked for first. Adapters and reports never change and
//! may be shared between threads. The headers of C say more about each call.

mod adapter;
mod builder;
mod codes;
mod context;
mod embed;
mod error;
mod extract;
mod file;
mod light;
mod module;
mod open;
mod operation;
mod report;
mod stream;
mod tensor;
mod text;

pub use adapter::{Adapter, Details, Info};
pub use builder::Builder;
pub use codes::{Dtype, Float, Level, Severity, Status};
pub use context::{CancelToken, Context, ContextBuilder};
pub use embed::{EmbedOptions, Embedding};
pub use error::{Error, Result};
pub use extract::{ExtractKind, ExtractOptions};
pub use file::{edit_metadata, hash_file, Edit, EditOptions, Hashes};
pub use light::{draw_matrix, Draw, Init, LightOptions, Recipe};
pub use module::{Factors, Module, Part, Shape};
pub use open::OpenOptions;
pub use operation::{
    ConvertOptions, Counting, DeltaOptions, RankRule, ResizeOptions, Spectra, Split, Strength,
};
pub use report::{Layer, Problem, Report};
pub use stream::ReadAt;
pub use tensor::Tensor;

use liblora_sys as sys;

/// Version of the library that is linked, `0.1.0`.
pub fn version() -> &'static str {
    // SAFETY: gives a static string.
    unsafe { text::text(sys::lora_version_string()) }
}

/// What the library was built with, in one line.
pub fn build_info() -> &'static str {
    // SAFETY: gives a static string.
    unsafe { text::text(sys::lora_build_info()) }
}

/// Whether a part of the library is in this build: `threads`, `simd`, `zlib`,
/// `map`.
pub fn supports(name: &str) -> bool {
    // SAFETY: the name lives through the call.
    text::c_text(name).map_or(false, |n| unsafe { sys::lora_feature_supported(n.as_ptr()) } != 0)
}

/// Memory for a result. Its size may come from a file, so that there is not
/// enough is an error, not the end of the program.
fn buffer<T: Copy + Default>(count: usize) -> Result<Vec<T>> {
    let mut out = Vec::new();
    match out.try_reserve_exact(count) {
        Ok(()) => out.resize(count, T::default()),
        Err(_) => {
            let message = format!("no memory for {count} elements");
            return Err(Error::new(Status::Memory, "", &message));
        }
    }
    Ok(out)
}
