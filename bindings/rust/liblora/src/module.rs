//! Modules: one adapted layer each, and the numbers of its weight change.

use std::ops::{Deref, Range};
use std::ptr;

use liblora_sys as sys;

use crate::codes::{Dtype, Float, Status};
use crate::error::{Error, Result};
use crate::text::text;
use crate::{buffer, Adapter};

/// Dimensions, the slowest first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [i64; sys::LORA_MAX_DIMS as usize],
    ndim: usize,
}

impl Shape {
    pub(crate) fn new(dims: [i64; sys::LORA_MAX_DIMS as usize], ndim: i32) -> Self {
        Self { dims, ndim: usize::try_from(ndim).unwrap_or(0).min(dims.len()) }
    }

    /// How many elements there are; `None` if that is more than there can be.
    pub fn elements(&self) -> Option<usize> {
        product(self)
    }
}

fn product(dims: &[i64]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(usize::try_from(dim).ok()?))
}

impl Deref for Shape {
    type Target = [i64];

    fn deref(&self) -> &[i64] {
        &self.dims[..self.ndim]
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

/// What a module changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    Weight,
    Bias,
}

impl Part {
    fn raw(self) -> sys::lora_part {
        match self {
            Self::Weight => sys::LORA_PART_WEIGHT,
            Self::Bias => sys::LORA_PART_BIAS,
        }
    }
}

/// One adapted layer.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Module<'a> {
    pub(crate) adapter: &'a Adapter<'a>,
    pub index: usize,
    /// As stored in the file.
    pub name: &'a str,
    /// The canonical name of the weight it changes: dotted, as in diffusers.
    pub target: &'a str,
    /// `lora`, `locon`, `loha`, `lokr`, `full`, ...
    pub kind: &'a str,
    /// The spelling of its names, such as `kohya`.
    pub dialect: &'a str,
    /// 0 where the kind has none.
    pub rank: i64,
    pub alpha: Option<f64>,
    /// What the product of the factors is multiplied by.
    pub scale: f64,
    /// Of the weight it changes.
    pub shape: Shape,
    /// Of the factors.
    pub dtype: Dtype,
    /// Has a DoRA magnitude.
    pub dora: bool,
    /// Has a core tensor.
    pub tucker: bool,
    pub changes_weight: bool,
    pub changes_bias: bool,
    /// Why operations refuse it, if they do.
    pub status: Option<Status>,
}

/// `change[rows, cols] = scale * up[rows, rank] * down[rank, cols]`
#[derive(Clone, Debug, PartialEq)]
pub struct Factors<T> {
    pub rows: usize,
    pub cols: usize,
    pub rank: usize,
    pub scale: f64,
    /// Row-major, as `down`.
    pub up: Vec<T>,
    pub down: Vec<T>,
}

impl<'a> Module<'a> {
    /// # Safety
    ///
    /// `row` was filled in by this adapter.
    pub(crate) unsafe fn from_row(
        adapter: &'a Adapter<'a>,
        index: usize,
        row: &sys::lora_module_info,
    ) -> Self {
        Self {
            adapter,
            index,
            name: text(row.name),
            target: text(row.target),
            kind: text(row.kind),
            dialect: text(row.dialect),
            rank: row.rank,
            alpha: (row.has_alpha != 0).then_some(row.alpha),
            scale: row.scale,
            shape: Shape::new(row.shape, row.ndim),
            dtype: Dtype::from_raw(row.dtype),
            dora: row.dora != 0,
            tucker: row.tucker != 0,
            changes_weight: row.changes & sys::LORA_PART_WEIGHT != 0,
            changes_bias: row.changes & sys::LORA_PART_BIAS != 0,
            status: Some(row.status).filter(|&s| s != sys::LORA_OK).map(Status::from_raw),
        }
    }

    /// The dense change of the weight, row-major, in the shape of the weight.
    pub fn delta<T: Float>(&self, strength: f64) -> Result<Vec<T>> {
        self.whole(Part::Weight, strength)
    }

    /// The change of the bias, where the module has one.
    pub fn bias_delta<T: Float>(&self, strength: f64) -> Result<Vec<T>> {
        self.whole(Part::Bias, strength)
    }

    fn whole<T: Float>(&self, part: Part, strength: f64) -> Result<Vec<T>> {
        let rows = self.shape.first().copied().unwrap_or(0);
        let elements = match part {
            Part::Bias => usize::try_from(rows).ok(),
            Part::Weight => self.shape.elements(),
        };
        let mut out = buffer(elements.ok_or_else(|| self.too_large())?)?;
        self.delta_rows(&mut out, part, strength, 0..rows)?;
        Ok(out)
    }

    /// Rows of the dense change, into a buffer of just their size. A row of the
    /// bias is one element.
    pub fn delta_rows<T: Float>(
        &self,
        out: &mut [T],
        part: Part,
        strength: f64,
        rows: Range<i64>,
    ) -> Result<()> {
        let bytes = std::mem::size_of_val(out);
        self.adapter.context().call(|e| {
            // SAFETY: out has so many bytes; any bits are a float.
            unsafe {
                sys::lora_adapter_delta(
                    out.as_mut_ptr().cast(),
                    bytes,
                    self.adapter.raw(),
                    self.index,
                    part.raw(),
                    strength,
                    T::DTYPE.raw(),
                    rows.start,
                    rows.end,
                    e,
                )
            }
        })
    }

    /// The factors of the change, exactly; a core is multiplied into `down`.
    pub fn factors<T: Float>(&self) -> Result<Factors<T>> {
        let mut sizes = [0i64; 3];
        let mut scale = 0.0;
        self.factors_into::<T>(&mut sizes, &mut scale, ptr::null_mut(), ptr::null_mut())?;
        let [rows, cols, rank] = sizes;
        let allocate = |n, m| buffer(product(&[n, m]).ok_or_else(|| self.too_large())?);
        let (mut up, mut down) = (allocate(rows, rank)?, allocate(rank, cols)?);
        self.factors_into::<T>(&mut sizes, &mut scale, up.as_mut_ptr(), down.as_mut_ptr())?;
        let [rows, cols, rank] = sizes.map(|size| size as usize);
        Ok(Factors { rows, cols, rank, scale, up, down })
    }

    fn factors_into<T: Float>(
        &self,
        sizes: &mut [i64; 3],
        scale: &mut f64,
        up: *mut T,
        down: *mut T,
    ) -> Result<()> {
        let [rows, cols, rank] = sizes;
        self.adapter.context().call(|e| {
            // SAFETY: up and down are NULL, or of the sizes that C told.
            unsafe {
                sys::lora_adapter_factors(
                    rows,
                    cols,
                    rank,
                    scale,
                    up.cast(),
                    down.cast(),
                    T::DTYPE.raw(),
                    self.adapter.raw(),
                    self.index,
                    e,
                )
            }
        })
    }

    fn too_large(&self) -> Error {
        Error::new(Status::Memory, self.name, "more elements than memory can hold")
    }
}
