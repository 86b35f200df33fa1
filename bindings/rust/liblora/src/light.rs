//! Light-LoRA: factors that act between frozen random matrices.

use std::ffi::CString;
use std::ptr;

use liblora_sys as sys;

use crate::codes::Dtype;
use crate::error::Result;
use crate::text::{c_text, c_text_option, pointer};
use crate::{Adapter, Context, Report};

/// How a matrix is initialised, as torch does it on the CPU.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Init {
    /// `orthogonal_`, of this gain.
    Orthogonal(f64),
    /// `normal_`, of this standard deviation.
    Normal(f64),
    /// `xavier_normal_`, of this gain.
    Xavier(f64),
    /// What a new `nn.Linear` has.
    Linear,
}

/// One draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    pub rows: i64,
    pub cols: i64,
    pub init: Init,
}

impl Draw {
    fn raw(self) -> sys::lora_light_draw {
        let (init, value) = match self.init {
            Init::Orthogonal(gain) => (sys::LORA_LIGHT_ORTHOGONAL, gain),
            Init::Normal(deviation) => (sys::LORA_LIGHT_NORMAL, deviation),
            Init::Xavier(gain) => (sys::LORA_LIGHT_XAVIER, gain),
            Init::Linear => (sys::LORA_LIGHT_LINEAR, 1.0),
        };
        sys::lora_light_draw { rows: self.rows, cols: self.cols, value, init, reserved1: 0 }
    }
}

/// How frozen matrices were drawn.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    /// Of `torch.manual_seed`.
    pub seed: u64,
    /// What was drawn, in order, such as `down_aux,down,up_aux`.
    pub draws: Option<String>,
    /// Whose layers' sizes are meant, such as `sd15`.
    pub family: Option<String>,
    /// A base model to take sizes from.
    pub base: Option<String>,
    /// Sizes of the layers whose names fit a pattern: rows and columns.
    pub shapes: Vec<(String, i64, i64)>,
    /// Rows of down_aux, where tensors do not tell.
    pub down_size: i64,
    /// Columns of up_aux.
    pub up_size: i64,
}

/// What belongs to the raw recipe and must outlive it.
struct RawRecipe {
    draws: Option<CString>,
    family: Option<CString>,
    base: Option<CString>,
    _patterns: Vec<CString>,
    shapes: Vec<sys::lora_light_shape>,
}

impl RawRecipe {
    fn new(recipe: &Recipe) -> Result<Self> {
        let patterns = recipe.shapes.iter().map(|(pattern, _, _)| c_text(pattern));
        let patterns = patterns.collect::<Result<Vec<_>>>()?;
        let shapes = patterns.iter().zip(&recipe.shapes).map(|(pattern, &(_, rows, cols))| {
            sys::lora_light_shape { pattern: pattern.as_ptr(), rows, cols }
        });
        Ok(Self {
            draws: c_text_option(recipe.draws.as_deref())?,
            family: c_text_option(recipe.family.as_deref())?,
            base: c_text_option(recipe.base.as_deref())?,
            shapes: shapes.collect(),
            _patterns: patterns,
        })
    }

    fn raw(&self, recipe: &Recipe) -> sys::lora_light_recipe {
        sys::lora_light_recipe {
            seed: recipe.seed,
            draws: pointer(&self.draws),
            family: pointer(&self.family),
            base: pointer(&self.base),
            shapes: self.shapes.as_ptr(),
            shape_count: self.shapes.len(),
            down_size: recipe.down_size,
            up_size: recipe.up_size,
            ..Default::default()
        }
    }
}

/// What is made, and how it is stored.
#[derive(Clone, Debug, Default)]
pub struct LightOptions {
    /// Of what is created (4), or at most that where one is expanded.
    pub rank: i64,
    /// Of what is written.
    pub dtype: Option<Dtype>,
    /// Write the frozen matrices too.
    pub store: bool,
    /// Leave unusable modules out.
    pub skip_bad: bool,
    /// Of what is created: 1, up is 0 at first; 2, down; 4, one matrix; 5,
    /// normal numbers.
    pub variant: i32,
    /// Of the normal numbers.
    pub deviation: f64,
}

impl LightOptions {
    fn raw(&self) -> sys::lora_light_options {
        sys::lora_light_options {
            rank: self.rank,
            dtype: self.dtype.unwrap_or(Dtype::None).raw(),
            store: self.store.into(),
            skip_bad: self.skip_bad.into(),
            variant: self.variant,
            deviation: self.deviation,
            ..Default::default()
        }
    }
}

/// Draw matrices one after the other and give back the last, row by row.
pub fn draw_matrix(context: &Context, seed: u64, draws: &[Draw]) -> Result<Vec<f32>> {
    let raw: Vec<_> = draws.iter().map(|draw| draw.raw()).collect();
    let count = draws.last().map_or(0, |last| {
        usize::try_from(last.rows.max(0))
            .unwrap_or(0)
            .saturating_mul(usize::try_from(last.cols.max(0)).unwrap_or(0))
    });
    let mut numbers: Vec<f32> = vec![0.0; count.min(1 << 30)];
    // SAFETY: the pointers live through the call, which writes no more than it
    // is told there is room for.
    unsafe {
        context.call(|e| {
            sys::lora_light_draw_matrix(
                numbers.as_mut_ptr().cast(),
                numbers.len() * std::mem::size_of::<f32>(),
                context.raw(),
                seed,
                raw.as_ptr(),
                raw.len(),
                e,
            )
        })?;
    }
    Ok(numbers)
}

impl<'a> Adapter<'a> {
    /// A Light-LoRA to be trained, of the layers of `recipe.family`.
    pub fn light_create(
        context: &Context,
        recipe: &Recipe,
        options: &LightOptions,
    ) -> Result<Self> {
        let kept = RawRecipe::new(recipe)?;
        let (recipe, settings) = (kept.raw(recipe), options.raw());
        let mut out = ptr::null_mut();
        // SAFETY: the pointers live through the call, and the result is ours.
        unsafe {
            context
                .call(|e| sys::lora_light_create(&mut out, context.raw(), &recipe, &settings, e))?;
            Self::from_raw(out, context)
        }
    }

    /// Plain LoRA. `recipe`: for frozen matrices that are not stored, where the
    /// file does not say it.
    pub fn light_expand(&self, recipe: Option<&Recipe>, options: &LightOptions) -> Result<Self> {
        let kept = recipe.map(RawRecipe::new).transpose()?;
        let raw = recipe.zip(kept.as_ref()).map(|(recipe, kept)| kept.raw(recipe));
        let raw = raw.as_ref().map_or(ptr::null(), |raw| raw as *const _);
        let settings = options.raw();
        let mut out = ptr::null_mut();
        // SAFETY: the pointers live through the call, and the result is ours.
        unsafe {
            self.context()
                .call(|e| sys::lora_light_expand(&mut out, self.raw(), raw, &settings, e))?;
            Self::from_raw(out, self.context())
        }
    }

    /// The nearest Light-LoRA; the report says what is lost.
    pub fn light_compress(
        &self,
        recipe: &Recipe,
        options: &LightOptions,
    ) -> Result<(Self, Report)> {
        let kept = RawRecipe::new(recipe)?;
        let (recipe, settings) = (kept.raw(recipe), options.raw());
        let (mut out, mut report) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the pointers live through the call, and the results are ours.
        unsafe {
            self.context().call(|e| {
                sys::lora_light_compress(&mut out, &mut report, self.raw(), &recipe, &settings, e)
            })?;
            let report = Report::from_raw(report, self.context())?;
            Ok((Self::from_raw(out, self.context())?, report))
        }
    }

    /// Whether the frozen matrices that are stored are those of a recipe, which
    /// the file says if none is given.
    pub fn light_verify(&self, recipe: Option<&Recipe>) -> Result<Report> {
        let kept = recipe.map(RawRecipe::new).transpose()?;
        let raw = recipe.zip(kept.as_ref()).map(|(recipe, kept)| kept.raw(recipe));
        let raw = raw.as_ref().map_or(ptr::null(), |raw| raw as *const _);
        let mut out = ptr::null_mut();
        // SAFETY: the pointers live through the call, and the result is ours.
        unsafe {
            self.context().call(|e| sys::lora_light_verify(&mut out, self.raw(), raw, e))?;
            Report::from_raw(out, self.context())
        }
    }
}
