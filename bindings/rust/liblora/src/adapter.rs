//! Adapters, and what is in them.

use std::marker::PhantomData;
use std::path::Path;
use std::ptr::{self, NonNull};

use liblora_sys as sys;

use crate::codes::Dtype;
use crate::context::{non_null, Context};
use crate::error::Result;
use crate::module::{Module, Shape};
use crate::report::Report;
use crate::tensor::Tensor;
use crate::text::{c_path, c_text, text};
use crate::{buffer, OpenOptions};

/// The immutable picture of one file: its tensors, and the modules they form.
///
/// `'a` is the life of memory that the adapter reads from; see
/// [`OpenOptions::memory`]. What is made from an adapter may read from there
/// too. A clone is the same adapter.
pub struct Adapter<'a> {
    raw: NonNull<sys::lora_adapter>,
    context: Context,
    source: PhantomData<&'a [u8]>,
}

// SAFETY: adapter.h: "adapters are immutable; any number of threads may use
// one", and retaining and destroying are safe from any thread. Readers of the
// host are Send and Sync, as `ReadAt` requires.
unsafe impl Send for Adapter<'_> {}
unsafe impl Sync for Adapter<'_> {}

impl Clone for Adapter<'_> {
    fn clone(&self) -> Self {
        // SAFETY: gives the same adapter, with one more owner.
        let raw = unsafe { sys::lora_adapter_retain(self.raw.as_ptr()) };
        Self {
            raw: NonNull::new(raw).unwrap_or(self.raw),
            context: self.context.clone(),
            source: PhantomData,
        }
    }
}

impl Drop for Adapter<'_> {
    fn drop(&mut self) {
        // SAFETY: one owner less. The context is dropped after it.
        unsafe { sys::lora_adapter_destroy(self.raw.as_ptr()) }
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Info<'a> {
    /// `safetensors`, ...; `memory` for a result.
    pub container: &'a str,
    /// The best guess of the base model, such as `sdxl`; or empty.
    pub family: &'a str,
    /// How sure that is, 0 to 1.
    pub confidence: f64,
    /// Size of the file; 0 for a result.
    pub bytes: u64,
    /// Elements of all tensors of modules.
    pub parameters: u64,
    /// Tensors that belong to no module.
    pub unknown_count: u64,
    pub problem_count: u64,
}

/// What [`Adapter::describe`] adds to what is at hand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Details {
    /// One entry a module, instead of counts by kind.
    pub modules: bool,
    /// Hashes, which read the whole file.
    pub hashes: bool,
}

impl<'a> Adapter<'a> {
    /// Open a file with defaults; [`OpenOptions`] has more.
    pub fn open(context: &Context, path: impl AsRef<Path>) -> Result<Adapter<'static>> {
        OpenOptions::new().open(context, path)
    }

    /// # Safety
    ///
    /// `raw` is an adapter of `context`, owned by nobody else, that reads from
    /// no memory that ends before `'a`.
    pub(crate) unsafe fn from_raw(raw: *mut sys::lora_adapter, context: &Context) -> Result<Self> {
        let (raw, context) = (non_null(raw)?, context.clone());
        Ok(Self { raw, context, source: PhantomData })
    }

    pub(crate) fn raw(&self) -> *const sys::lora_adapter {
        self.raw.as_ptr()
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    pub fn info(&self) -> Result<Info<'_>> {
        let mut row = sys::lora_adapter_info::default();
        // SAFETY: strings handed out live as long as the adapter.
        unsafe {
            self.context.call(|e| sys::lora_adapter_get_info(&mut row, self.raw(), e))?;
            Ok(Info {
                container: text(row.container),
                family: text(row.family),
                confidence: row.confidence,
                bytes: row.bytes,
                parameters: row.parameters,
                unknown_count: row.unknown_count,
                problem_count: row.problem_count,
            })
        }
    }

    pub fn module_count(&self) -> usize {
        // SAFETY: the adapter lives as long as self.
        unsafe { sys::lora_adapter_module_count(self.raw()) }
    }

    pub fn module(&self, index: usize) -> Result<Module<'_>> {
        let mut row = sys::lora_module_info::default();
        // SAFETY: strings handed out live as long as the adapter.
        unsafe {
            self.context.call(|e| sys::lora_adapter_get_module(&mut row, self.raw(), index, e))?;
            Ok(Module::from_row(self, index, &row))
        }
    }

    /// The module of this name, stored or canonical.
    pub fn find_module(&self, name: &str) -> Result<Module<'_>> {
        let name = c_text(name)?;
        let mut index = 0;
        self.context.call(|e| {
            // SAFETY: all pointers live through the call.
            unsafe { sys::lora_adapter_find_module(&mut index, self.raw(), name.as_ptr(), e) }
        })?;
        self.module(index)
    }

    /// All modules, in the order of their first tensor in the file.
    pub fn modules(&self) -> impl Iterator<Item = Module<'_>> {
        (0..self.module_count()).filter_map(move |index| self.module(index).ok())
    }

    pub fn tensor_count(&self) -> usize {
        // SAFETY: the adapter lives as long as self.
        unsafe { sys::lora_adapter_tensor_count(self.raw()) }
    }

    pub fn tensor(&self, index: usize) -> Result<Tensor<'_>> {
        let mut row = sys::lora_tensor_info::default();
        // SAFETY: strings handed out live as long as the adapter.
        unsafe {
            self.context
                .call(|e| sys::lora_adapter_get_tensor_info(&mut row, self.raw(), index, e))?;
            Ok(Tensor {
                adapter: self,
                index,
                name: text(row.name),
                role: text(row.role),
                module: usize::try_from(row.module_index).ok().filter(|&m| m < self.module_count()),
                offset: row.offset,
                bytes: row.bytes,
                shape: Shape::new(row.shape, row.ndim),
                dtype: Dtype::from_raw(row.dtype),
            })
        }
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        (0..self.tensor_count()).filter_map(move |index| self.tensor(index).ok())
    }

    /// All entries of the metadata, sorted by key.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        // SAFETY: the adapter lives as long as self.
        let count = unsafe { sys::lora_adapter_metadata_count(self.raw()) };
        (0..count).filter_map(move |index| self.metadata_entry(index).ok())
    }

    fn metadata_entry(&self, index: usize) -> Result<(&str, &str)> {
        let (mut key, mut value) = (ptr::null(), ptr::null());
        // SAFETY: strings handed out live as long as the adapter.
        unsafe {
            self.context.call(|e| {
                sys::lora_adapter_get_metadata(&mut key, &mut value, self.raw(), index, e)
            })?;
            Ok((text(key), text(value)))
        }
    }

    /// One value of the metadata.
    pub fn metadata_value(&self, key: &str) -> Option<&str> {
        let key = c_text(key).ok()?;
        // SAFETY: strings handed out live as long as the adapter.
        unsafe {
            let value = sys::lora_adapter_find_metadata(self.raw(), key.as_ptr());
            if value.is_null() {
                None
            } else {
                Some(text(value))
            }
        }
    }

    /// The JSON object of `lora info --json`, and the problems that show
    /// without reading tensor data.
    pub fn describe(&self, details: Details) -> Result<Report> {
        let options = sys::lora_adapter_describe_options {
            modules: details.modules.into(),
            hashes: details.hashes.into(),
            ..Default::default()
        };
        let mut raw = ptr::null_mut();
        self.context.call(|e| {
            // SAFETY: all pointers live through the call.
            unsafe { sys::lora_adapter_describe(&mut raw, self.raw(), &options, e) }
        })?;
        // SAFETY: a report of this context, ours.
        unsafe { Report::from_raw(raw, &self.context) }
    }

    /// Save as a safetensors file, which is there whole or not at all. Fails
    /// where there is a file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_as(path.as_ref(), false)
    }

    /// [`save`](Self::save), also in the place of a file.
    pub fn save_over(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_as(path.as_ref(), true)
    }

    fn save_as(&self, path: &Path, overwrite: bool) -> Result<()> {
        let path = c_path(path)?;
        let options =
            sys::lora_adapter_save_options { overwrite: overwrite.into(), ..Default::default() };
        self.context.call(|e| {
            // SAFETY: all pointers live through the call.
            unsafe { sys::lora_adapter_save(self.raw(), path.as_ptr(), &options, e) }
        })
    }

    /// Save as a folder that PEFT loads. `overwrite`: also in the place of files.
    pub fn save_peft(&self, folder: impl AsRef<Path>, overwrite: bool) -> Result<()> {
        let folder = c_path(folder.as_ref())?;
        let options =
            sys::lora_adapter_save_options { overwrite: overwrite.into(), ..Default::default() };
        self.context.call(|e| {
            // SAFETY: all pointers live through the call.
            unsafe { sys::lora_adapter_save_peft(self.raw(), folder.as_ptr(), &options, e) }
        })
    }

    /// The bytes that [`save`](Self::save) would write.
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        let mut bytes = 0;
        self.save_memory(ptr::null_mut(), 0, &mut bytes)?;
        let mut data = buffer(bytes)?;
        self.save_memory(data.as_mut_ptr(), data.len(), &mut bytes)?;
        Ok(data)
    }

    fn save_memory(&self, data: *mut u8, room: usize, bytes: &mut usize) -> Result<()> {
        self.context.call(|e| {
            // SAFETY: data is NULL, or has room for so many bytes.
            unsafe { sys::lora_adapter_save_memory(data.cast(), room, bytes, self.raw(), e) }
        })
    }
}
