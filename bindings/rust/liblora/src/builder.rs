//! Builders: an adapter from tensors, or from another adapter.

use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use liblora_sys as sys;

use crate::codes::{Dtype, Status};
use crate::context::{non_null, Context};
use crate::error::{Error, Result};
use crate::text::{c_text, c_text_option, pointer};
use crate::Adapter;

/// Makes an adapter from tensors, or from another adapter, whose tensors are
/// taken over without a copy.
pub struct Builder<'a> {
    raw: NonNull<sys::lora_builder>,
    context: Context,
    source: PhantomData<&'a [u8]>,
}

// SAFETY: builder.h: "one thread at a time", so it may go to another. It is not
// Sync.
unsafe impl Send for Builder<'_> {}

impl Drop for Builder<'_> {
    fn drop(&mut self) {
        // SAFETY: ours, once. The context is dropped after it.
        unsafe { sys::lora_builder_destroy(self.raw.as_ptr()) }
    }
}

impl<'a> Builder<'a> {
    /// Start empty.
    pub fn new(context: &Context) -> Result<Self> {
        Self::create(context, ptr::null())
    }

    /// Start with the tensors and the metadata of an adapter.
    pub fn from_adapter(adapter: &Adapter<'a>) -> Result<Self> {
        Self::create(adapter.context(), adapter.raw())
    }

    fn create(context: &Context, source: *const sys::lora_adapter) -> Result<Self> {
        let mut raw = ptr::null_mut();
        context.call(|e| {
            // SAFETY: source is NULL or an adapter of this context.
            unsafe { sys::lora_builder_create(&mut raw, context.raw(), source, e) }
        })?;
        let (raw, context) = (non_null(raw)?, context.clone());
        Ok(Self { raw, context, source: PhantomData })
    }

    /// Add a tensor. `data` is little-endian, and copied.
    pub fn add_tensor(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[i64],
        data: &[u8],
    ) -> Result<&mut Self> {
        let c_name = c_text(name)?;
        let mut tensor = sys::lora_tensor {
            data: data.as_ptr().cast(),
            bytes: data.len() as u64,
            shape: Default::default(),
            ndim: shape.len() as i32,
            dtype: dtype.raw(),
        };
        match tensor.shape.get_mut(..shape.len()) {
            Some(dims) => dims.copy_from_slice(shape),
            None => return Err(Error::new(Status::Shape, name, "too many dimensions")),
        }
        self.context.call(|e| {
            // SAFETY: all pointers live through the call.
            unsafe { sys::lora_builder_add_tensor(self.raw.as_ptr(), c_name.as_ptr(), &tensor, e) }
        })?;
        Ok(self)
    }

    /// Take a tensor out.
    pub fn remove_tensor(&mut self, name: &str) -> Result<&mut Self> {
        let name = c_text(name)?;
        self.context.call(|e| {
            // SAFETY: as above.
            unsafe { sys::lora_builder_remove_tensor(self.raw.as_ptr(), name.as_ptr(), e) }
        })?;
        Ok(self)
    }

    /// Set a metadata entry, or remove it.
    pub fn set_metadata(&mut self, key: &str, value: Option<&str>) -> Result<&mut Self> {
        let (key, value) = (c_text(key)?, c_text_option(value)?);
        self.context.call(|e| {
            let (raw, key) = (self.raw.as_ptr(), key.as_ptr());
            // SAFETY: as above.
            unsafe { sys::lora_builder_set_metadata(raw, key, pointer(&value), e) }
        })?;
        Ok(self)
    }

    /// Make the adapter.
    pub fn finish(self) -> Result<Adapter<'a>> {
        let mut out = ptr::null_mut();
        // SAFETY: the result is ours; it may read from what the source reads.
        unsafe {
            self.context.call(|e| sys::lora_builder_finish(&mut out, self.raw.as_ptr(), e))?;
            Adapter::from_raw(out, &self.context)
        }
    }
}
