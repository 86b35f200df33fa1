//! Opening adapters: from files, memory, and readers of the host.

use std::path::Path;
use std::ptr;

use liblora_sys as sys;

use crate::context::Context;
use crate::error::Result;
use crate::stream::{reader_table, ReadAt};
use crate::text::c_path;
use crate::Adapter;

/// How to open an adapter, as [`std::fs::OpenOptions`].
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    config: Option<String>,
    map: bool,
}

impl OpenOptions {
    pub fn new() -> Self {
        Self::default()
    }

    /// The text of PEFT's `adapter_config.json`, instead of the file beside.
    pub fn config(mut self, text: impl Into<String>) -> Self {
        self.config = Some(text.into());
        self
    }

    /// Map the file instead of reading it, so that
    /// [`Tensor::view`](crate::Tensor::view) works.
    ///
    /// # Safety
    ///
    /// No program may change or shorten the file while the adapter, or what was
    /// made from it, lives.
    pub unsafe fn map(mut self) -> Self {
        self.map = true;
        self
    }

    /// Open a file.
    pub fn open(&self, context: &Context, path: impl AsRef<Path>) -> Result<Adapter<'static>> {
        let path = c_path(path.as_ref())?;
        // SAFETY: all pointers live through the call. A file is no memory.
        unsafe {
            self.make(context, |out, options, e| {
                sys::lora_adapter_open(out, context.raw(), path.as_ptr(), options, e)
            })
        }
    }

    /// Open a file that lies in memory, which is borrowed.
    pub fn memory<'a>(&self, context: &Context, data: &'a [u8]) -> Result<Adapter<'a>> {
        let (start, bytes) = (data.as_ptr().cast(), data.len());
        // SAFETY: the data stays as it is during 'a.
        unsafe {
            self.make(context, |out, options, e| {
                sys::lora_adapter_open_memory(out, context.raw(), start, bytes, options, e)
            })
        }
    }

    /// Open through a reader, which is dropped when the adapter and all that
    /// was made from it are gone, and also on failure.
    pub fn reader<'a, R: ReadAt + 'a>(&self, context: &Context, reader: R) -> Result<Adapter<'a>> {
        let table = reader_table(context, reader);
        // SAFETY: C owns the reader from here on, also on failure: it refuses
        // no table that has these members. It may be used during 'a.
        unsafe {
            self.make(context, |out, options, e| {
                sys::lora_adapter_open_reader(out, context.raw(), &table, options, e)
            })
        }
    }

    /// # Safety
    ///
    /// `open` gives an adapter of `context` that reads from no memory that ends
    /// before `'a`.
    unsafe fn make<'a>(
        &self,
        context: &Context,
        open: impl FnOnce(
            *mut *mut sys::lora_adapter,
            *const sys::lora_adapter_open_options,
            *mut sys::lora_error,
        ) -> sys::lora_status,
    ) -> Result<Adapter<'a>> {
        let config = self.config.as_deref().map(str::as_bytes);
        let options = sys::lora_adapter_open_options {
            config: config.map_or(ptr::null(), |text| text.as_ptr().cast()),
            config_bytes: config.map_or(0, <[u8]>::len),
            flags: if self.map { sys::LORA_OPEN_MAP as u32 } else { 0 },
            ..Default::default()
        };
        let mut raw = ptr::null_mut();
        context.call(|e| open(&mut raw, &options, e))?;
        Adapter::from_raw(raw, context)
    }
}
