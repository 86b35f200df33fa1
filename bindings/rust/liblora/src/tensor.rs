//! Tensors as they are stored.

use liblora_sys as sys;

use crate::codes::{Dtype, Float, Status};
use crate::error::{Error, Result};
use crate::module::Shape;
use crate::{buffer, Adapter};

/// One tensor of a file.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Tensor<'a> {
    pub(crate) adapter: &'a Adapter<'a>,
    pub index: usize,
    pub name: &'a str,
    /// `down`, `up`, `alpha`, ...; `unknown`.
    pub role: &'a str,
    /// The index of the module it belongs to.
    pub module: Option<usize>,
    /// Of the data in the file; 0 for a result.
    pub offset: u64,
    pub bytes: u64,
    pub shape: Shape,
    pub dtype: Dtype,
}

impl<'a> Tensor<'a> {
    /// The data as stored, little-endian.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let mut out = buffer(usize::try_from(self.bytes).map_err(|_| self.too_large())?)?;
        self.read_into(&mut out, Dtype::None)?;
        Ok(out)
    }

    /// The numbers, converted.
    pub fn read<T: Float>(&self) -> Result<Vec<T>> {
        let mut out = buffer(self.shape.elements().ok_or_else(|| self.too_large())?)?;
        self.read_into(&mut out, T::DTYPE)?;
        Ok(out)
    }

    /// The data where it lies, without a copy. Fails with [`Status::State`]
    /// where the adapter is neither in memory nor mapped.
    pub fn view(&self) -> Result<&'a [u8]> {
        let mut view = std::mem::MaybeUninit::<sys::lora_tensor>::zeroed();
        // SAFETY: the view is valid as long as the adapter, which 'a is within;
        // zeros are an empty one.
        unsafe {
            self.adapter.context().call(|e| {
                sys::lora_adapter_get_tensor(view.as_mut_ptr(), self.adapter.raw(), self.index, e)
            })?;
            let view = view.assume_init();
            if view.bytes == 0 {
                return Ok(&[]);
            }
            Ok(std::slice::from_raw_parts(view.data.cast(), view.bytes as usize))
        }
    }

    /// Into a buffer of just the size, of numbers of any type.
    fn read_into<T>(&self, out: &mut [T], dtype: Dtype) -> Result<()> {
        let bytes = std::mem::size_of_val(out);
        self.adapter.context().call(|e| {
            // SAFETY: out has so many bytes, and any bits are a T: the callers
            // above pass bytes and floats.
            unsafe {
                sys::lora_adapter_read_tensor(
                    out.as_mut_ptr().cast(),
                    bytes,
                    self.adapter.raw(),
                    self.index,
                    dtype.raw(),
                    e,
                )
            }
        })
    }

    fn too_large(&self) -> Error {
        Error::new(Status::Memory, self.name, "more elements than memory can hold")
    }
}
