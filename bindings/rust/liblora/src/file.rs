//! What is done with whole files: hashes, and edits of metadata.

use std::path::{Path, PathBuf};
use std::ptr;

use liblora_sys as sys;

use crate::context::Context;
use crate::error::Result;
use crate::text::{array_text, c_path, c_text, c_text_option, pointer};

/// The hashes by which sites and front ends know a file, in hexadecimal; empty
/// where one is not defined for the container.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hashes {
    pub sha256: String,
    pub auto_v1: String,
    pub auto_v2: String,
    pub auto_v3: String,
    pub crc32: String,
    pub blake3: String,
    pub lycoris: String,
    pub sshs_model_hash: String,
    pub sshs_legacy_hash: String,
    /// The same for files of the same tensors, whatever their metadata and
    /// order.
    pub content_id: String,
}

/// Compute the hashes of a file, of any container.
pub fn hash_file(context: &Context, path: impl AsRef<Path>) -> Result<Hashes> {
    let path = c_path(path.as_ref())?;
    let mut row = sys::lora_hashes::default();
    context.call(|e| {
        // SAFETY: all pointers live through the call.
        unsafe { sys::lora_hash_file(&mut row, context.raw(), path.as_ptr(), e) }
    })?;
    Ok(Hashes {
        sha256: array_text(&row.sha256),
        auto_v1: array_text(&row.auto_v1),
        auto_v2: array_text(&row.auto_v2),
        auto_v3: array_text(&row.auto_v3),
        crc32: array_text(&row.crc32),
        blake3: array_text(&row.blake3),
        lycoris: array_text(&row.lycoris),
        sshs_model_hash: array_text(&row.sshs_model_hash),
        sshs_legacy_hash: array_text(&row.sshs_legacy_hash),
        content_id: array_text(&row.content_id),
    })
}

/// How [`edit_metadata`] writes.
#[derive(Clone, Debug, Default)]
pub struct EditOptions {
    /// Write a new file instead of changing this one.
    pub output: Option<PathBuf>,
    /// What to leave free in a header that is written anew.
    pub room_bytes: u64,
    /// Replace an existing output.
    pub overwrite: bool,
    /// Never write within the file; see `lora/metadata.h`.
    pub rewrite: bool,
    /// Everything but writing.
    pub dry_run: bool,
}

/// What an edit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Edit {
    /// Size of the file afterwards.
    pub bytes: u64,
    /// Free in its header.
    pub room_bytes: u64,
    pub added: u64,
    pub replaced: u64,
    pub removed: u64,
    /// The header was changed within the file, or nothing had to be.
    pub in_place: bool,
}

/// Edit the metadata of a safetensors file, leaving its tensors alone: pairs of
/// a key and its value, or of a pattern (`*` any bytes, `?` one) and `None` for
/// what to remove.
pub fn edit_metadata(
    context: &Context,
    path: impl AsRef<Path>,
    changes: &[(&str, Option<&str>)],
    options: &EditOptions,
) -> Result<Edit> {
    let path = c_path(path.as_ref())?;
    let output = options.output.as_deref().map(c_path).transpose()?;
    let texts = changes.iter().map(|&(key, value)| Ok((c_text(key)?, c_text_option(value)?)));
    let texts = texts.collect::<Result<Vec<_>>>()?;
    let rows: Vec<_> = texts
        .iter()
        .map(|(key, value)| sys::lora_metadata_change { key: key.as_ptr(), value: pointer(value) })
        .collect();
    let settings = sys::lora_metadata_edit_options {
        output: pointer(&output),
        room_bytes: options.room_bytes,
        overwrite: options.overwrite.into(),
        rewrite: options.rewrite.into(),
        dry_run: options.dry_run.into(),
        ..Default::default()
    };
    let mut out = sys::lora_metadata_edit::default();
    let changes = if rows.is_empty() { ptr::null() } else { rows.as_ptr() };
    context.call(|e| {
        let (context, path) = (context.raw(), path.as_ptr());
        // SAFETY: all pointers live through the call.
        unsafe {
            sys::lora_metadata_edit_file(&mut out, context, path, changes, rows.len(), &settings, e)
        }
    })?;
    Ok(Edit {
        bytes: out.bytes,
        room_bytes: out.room_bytes,
        added: out.added,
        replaced: out.replaced,
        removed: out.removed,
        in_place: out.in_place != 0,
    })
}
