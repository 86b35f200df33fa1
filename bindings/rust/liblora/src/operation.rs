//! Operations: an adapter in, another adapter, a report or a file out.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};

use liblora_sys as sys;

use crate::codes::Dtype;
use crate::context::non_null;
use crate::error::Result;
use crate::text::{c_path, c_text_option, c_texts, pointer};
use crate::{Adapter, Report};

/// How many directions a layer keeps, of its singular values, which are those
/// of the scaled weight change.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RankRule {
    /// At most so many.
    Fixed(i32),
    /// The fewest whose squares add up to this share of all.
    Energy(f64),
    /// Those above the largest, divided by this.
    Ratio(f64),
    /// Those above this.
    Threshold(f64),
    /// The fewest that add up to this share of all.
    Cumulative(f64),
    /// As many as exp(entropy) of their shares of the sum, rounded up.
    Effective,
    /// Those up to where their curve bends.
    Knee,
    /// What goes into a file of at most so many bytes.
    Size(u64),
}

impl RankRule {
    pub(crate) fn raw(self) -> sys::lora_rank_rule {
        let (kind, rank, value) = match self {
            Self::Fixed(rank) => (sys::LORA_RANK_FIXED, rank, 0.0),
            Self::Energy(value) => (sys::LORA_RANK_ENERGY, 0, value),
            Self::Ratio(value) => (sys::LORA_RANK_RATIO, 0, value),
            Self::Threshold(value) => (sys::LORA_RANK_THRESHOLD, 0, value),
            Self::Cumulative(value) => (sys::LORA_RANK_CUMULATIVE, 0, value),
            Self::Effective => (sys::LORA_RANK_EFFECTIVE, 0, 0.0),
            Self::Knee => (sys::LORA_RANK_KNEE, 0, 0.0),
            Self::Size(bytes) => (sys::LORA_RANK_SIZE, 0, bytes as f64),
        };
        sys::lora_rank_rule { kind, rank, value }
    }
}

/// Whose count a rule has: tools have the same rules, and differ by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counting {
    /// As the rule says.
    #[default]
    Exact,
    /// As sd-scripts' `resize_lora`.
    Kohya,
    /// As LyCORIS' `extract_locon`.
    Lycoris,
}

impl Counting {
    pub(crate) fn raw(self) -> sys::lora_rank_counting {
        match self {
            Self::Exact => sys::LORA_COUNT_EXACT,
            Self::Kohya => sys::LORA_COUNT_KOHYA,
            Self::Lycoris => sys::LORA_COUNT_LYCORIS,
        }
    }
}

/// Where the singular values go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// Their square roots into both factors.
    #[default]
    Even,
    /// All into up.
    Up,
}

impl Split {
    pub(crate) fn raw(self) -> sys::lora_rank_split {
        match self {
            Self::Even => sys::LORA_SPLIT_EVEN,
            Self::Up => sys::LORA_SPLIT_UP,
        }
    }
}

/// Rules by pattern, as C takes them; it reads from the texts.
pub(crate) struct Overrides {
    _texts: Vec<CString>,
    pub(crate) rows: Vec<sys::lora_rank_override>,
}

impl Overrides {
    pub(crate) fn new(rules: &[(String, RankRule)]) -> Result<Self> {
        let texts = c_texts(rules.iter().map(|(pattern, _)| pattern.as_str()))?;
        let rows = texts.iter().zip(rules);
        let rows = rows.map(|(pattern, (_, rule))| sys::lora_rank_override {
            pattern: pattern.as_ptr(),
            rule: rule.raw(),
        });
        Ok(Self { rows: rows.collect(), _texts: texts })
    }
}

/// What [`Adapter::resize`] may be told besides its rule.
#[derive(Clone, Debug, Default)]
pub struct ResizeOptions {
    /// For k × k convolutions.
    pub conv_rule: Option<RankRule>,
    /// For modules whose name matches a pattern (`*` any bytes, `?` one); the
    /// last that matches holds.
    pub overrides: Vec<(String, RankRule)>,
    pub max_rank: Option<i32>,
    pub min_rank: Option<i32>,
    /// Zeros up to a fixed rule's rank, or `max_rank`.
    pub pad: bool,
    /// Keep the cores of Tucker modules, which are multiplied out otherwise.
    pub keep_core: bool,
    pub counting: Counting,
    pub split: Split,
    /// Of the factors.
    pub dtype: Option<Dtype>,
    /// Leave unusable modules out.
    pub skip_bad: bool,
    /// The model: kinds that change a weight by what it is become pairs, which
    /// are refused without it, and errors of DoRA are those of the changed
    /// weights.
    pub base: Option<PathBuf>,
}

/// What [`Adapter::convert`] changes.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// Such as `kohya` or `diffusers`.
    pub dialect: Option<String>,
    /// The base to take names from, instead of the guess.
    pub family: Option<String>,
    /// Of the factors.
    pub dtype: Option<Dtype>,
    /// Scale into the factors, alpha = rank.
    pub bake_alpha: bool,
    /// Leave unusable modules out.
    pub skip_bad: bool,
    /// To put into it: the result has at 1 the effect that it has at these.
    pub strength: Option<Strength>,
    /// Modules to leave out: names of components, or patterns (`*` any bytes,
    /// `?` one) of stored or canonical names.
    pub drops: Vec<String>,
    /// `lora`: what other kinds become, exactly or by `rank`; or `full`.
    pub kind: Option<String>,
    /// The model, for kinds that change a weight by what it is.
    pub base: Option<PathBuf>,
    /// Of those, and of what was a pair before, at most.
    pub rank: Option<i32>,
    /// Instead of `rank`.
    pub rule: Option<RankRule>,
    /// Of DyLoRA: the first directions, and what becomes of alpha.
    pub prefix: Option<(i32, Truncation)>,
}

/// What becomes of alpha where DyLoRA's rank r is cut to k.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Truncation {
    /// As it was, as sd-scripts does: the scale is r / k of what it was.
    #[default]
    KeepAlpha,
    /// For the scale that sd-scripts trained this rank with.
    TrainedSqrt,
    /// The same scale.
    KeepScale,
}

/// How strong an adapter is: 1 is as it was trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strength {
    /// Of the UNet or transformer, and what is not known.
    pub model: f64,
    /// Of all text encoders.
    pub text_encoder: f64,
}

/// How [`Adapter::save_delta`] writes.
#[derive(Clone, Debug, Default)]
pub struct DeltaOptions {
    /// `F32`, the default, or `F64`.
    pub dtype: Option<Dtype>,
    /// Canonical names instead of stored ones.
    pub canonical: bool,
    /// Replace an existing file.
    pub overwrite: bool,
    /// Leave unusable modules out.
    pub skip_bad: bool,
    /// The base model, for kinds whose change depends on its weights.
    pub base: Option<PathBuf>,
    /// What the weights of the base become, instead of their changes.
    pub weights: bool,
    /// Where a change is not in proportion to the strength, interpolate between
    /// the weight and what it becomes at 1.
    pub interpolate: bool,
}

pub(crate) fn dtype_code(dtype: Option<Dtype>) -> sys::lora_dtype {
    dtype.unwrap_or(Dtype::None).raw()
}

impl<'a> Adapter<'a> {
    /// Lower ranks, losing as little as possible.
    pub fn resize(&self, rule: RankRule, options: &ResizeOptions) -> Result<(Self, Report)> {
        // SAFETY: the call is given what it wants of this adapter.
        unsafe {
            self.resized(rule, options, |out, report, rule, settings, e| {
                sys::lora_adapter_resize(out, report, self.raw(), rule, settings, e)
            })
        }
    }

    /// Decompose every module, for several results of [`Spectra::resize`].
    pub fn spectra(&self) -> Result<Spectra<'a>> {
        let mut out = ptr::null_mut();
        // SAFETY: the pointers live through the call, and the result is ours.
        unsafe {
            self.context().call(|e| sys::lora_spectra_create(&mut out, self.raw() as *mut _, e))?;
        }
        Ok(Spectra { raw: non_null(out)?, adapter: self.clone() })
    }

    /// # Safety
    ///
    /// `call` resizes this adapter, with the other pointers as they are.
    unsafe fn resized(
        &self,
        rule: RankRule,
        options: &ResizeOptions,
        call: impl Fn(
            *mut *mut sys::lora_adapter,
            *mut *mut sys::lora_report,
            *const sys::lora_rank_rule,
            *const sys::lora_adapter_resize_options,
            *mut sys::lora_error,
        ) -> sys::lora_status,
    ) -> Result<(Self, Report)> {
        let rule = rule.raw();
        let conv_rule = options.conv_rule.map(RankRule::raw);
        let overrides = Overrides::new(&options.overrides)?;
        let base = options.base.as_deref().map(c_path).transpose()?;
        let settings = sys::lora_adapter_resize_options {
            base: pointer(&base),
            conv_rule: conv_rule.as_ref().map_or(ptr::null(), |rule| rule),
            overrides: overrides.rows.as_ptr(),
            override_count: overrides.rows.len(),
            max_rank: options.max_rank.unwrap_or(0),
            min_rank: options.min_rank.unwrap_or(0),
            pad: options.pad.into(),
            keep_core: options.keep_core.into(),
            counting: options.counting.raw(),
            split: options.split.raw(),
            dtype: dtype_code(options.dtype),
            skip_bad: options.skip_bad.into(),
            ..Default::default()
        };
        let (mut out, mut report) = (ptr::null_mut(), ptr::null_mut());
        // All pointers live through the call, and the results are ours. They
        // read from what self reads from.
        self.context().call(|e| call(&mut out, &mut report, &rule, &settings, e))?;
        let report = Report::from_raw(report, self.context())?;
        Ok((Self::from_raw(out, self.context())?, report))
    }

    /// Other names, number types or kinds, the same weight change.
    pub fn convert(&self, options: &ConvertOptions) -> Result<Self> {
        Ok(self.convert_report(options)?.0)
    }

    /// The same, and what a change of kind cost, if there was one.
    pub fn convert_report(&self, options: &ConvertOptions) -> Result<(Self, Option<Report>)> {
        let dialect = c_text_option(options.dialect.as_deref())?;
        let family = c_text_option(options.family.as_deref())?;
        let kind = c_text_option(options.kind.as_deref())?;
        let base = options.base.as_deref().map(c_path).transpose()?;
        let rule = options.rule.map(RankRule::raw);
        let prefix = options.prefix.unwrap_or_default();
        let strength = options
            .strength
            .map(|s| sys::lora_strength { model: s.model, text_encoder: s.text_encoder });
        let drops = c_texts(options.drops.iter().map(String::as_str))?;
        let drops: Vec<_> = drops.iter().map(|pattern| pattern.as_ptr()).collect();
        let settings = sys::lora_adapter_convert_options {
            dialect: pointer(&dialect),
            family: pointer(&family),
            dtype: dtype_code(options.dtype),
            bake_alpha: options.bake_alpha.into(),
            skip_bad: options.skip_bad.into(),
            strength: strength.as_ref().map_or(ptr::null(), |s| s),
            drops: drops.as_ptr(),
            drop_count: drops.len(),
            kind: pointer(&kind),
            base: pointer(&base),
            rank: options.rank.unwrap_or(0),
            rule: rule.as_ref().map_or(ptr::null(), |rule| rule),
            rank_prefix: prefix.0,
            truncation: prefix.1 as i32,
            ..Default::default()
        };
        let (mut out, mut report) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: as in resize().
        unsafe {
            self.context().call(|e| {
                sys::lora_adapter_convert_report(&mut out, &mut report, self.raw(), &settings, e)
            })?;
            let made = Self::from_raw(out, self.context())?;
            let report = match report.is_null() {
                true => None,
                false => Some(Report::from_raw(report, self.context())?),
            };
            Ok((made, report))
        }
    }

    /// The nearest LoKr of each module with factors, and what it loses.
    /// `factor` divides the sides as LyCORIS does, near square where it is
    /// `None`; `rank` is that of the larger factor at most.
    pub fn to_lokr(
        &self,
        factor: Option<i32>,
        rank: Option<i32>,
        dtype: Option<Dtype>,
    ) -> Result<(Self, Report)> {
        let settings = sys::lora_lokr_options {
            factor: factor.unwrap_or(0),
            rank: rank.unwrap_or(0),
            dtype: dtype_code(dtype),
            ..Default::default()
        };
        let mut out = ptr::null_mut();
        let mut report = ptr::null_mut();
        // SAFETY: as in resize().
        unsafe {
            self.context().call(|e| {
                sys::lora_adapter_to_lokr(&mut out, &mut report, self.raw(), &settings, e)
            })?;
            let report = Report::from_raw(report, self.context())?;
            Ok((Self::from_raw(out, self.context())?, report))
        }
    }

    /// Everything that would make it do nothing, or harm, values included.
    /// `family`: report what this base lacks, instead of the guess.
    pub fn check(&self, family: Option<&str>) -> Result<Report> {
        let family = c_text_option(family)?;
        let settings =
            sys::lora_adapter_check_options { family: pointer(&family), ..Default::default() };
        let mut out = ptr::null_mut();
        // SAFETY: as in resize().
        unsafe {
            self.context().call(|e| sys::lora_adapter_check(&mut out, self.raw(), &settings, e))?;
            Report::from_raw(out, self.context())
        }
    }

    /// Repair what a check finds, where there is one way to; the weight changes
    /// stay. The report's fixes say what was done, its problems what is left.
    /// `family`: base to take names from, instead of the guess. `skip_bad`:
    /// leave unusable modules out.
    pub fn fix(&self, family: Option<&str>, skip_bad: bool) -> Result<(Self, Report)> {
        let family = c_text_option(family)?;
        let settings = sys::lora_adapter_fix_options {
            family: pointer(&family),
            skip_bad: skip_bad.into(),
            ..Default::default()
        };
        let (mut out, mut report) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: as in resize().
        unsafe {
            self.context()
                .call(|e| sys::lora_adapter_fix(&mut out, &mut report, self.raw(), &settings, e))?;
            let report = Report::from_raw(report, self.context())?;
            Ok((Self::from_raw(out, self.context())?, report))
        }
    }

    /// Save the dense weight change of every module, as `lora delta` does.
    pub fn save_delta(
        &self,
        path: impl AsRef<Path>,
        strength: f64,
        options: &DeltaOptions,
    ) -> Result<()> {
        let path = c_path(path.as_ref())?;
        let base = options.base.as_deref().map(c_path).transpose()?;
        let settings = sys::lora_adapter_delta_options {
            dtype: dtype_code(options.dtype),
            canonical: options.canonical.into(),
            overwrite: options.overwrite.into(),
            skip_bad: options.skip_bad.into(),
            base: pointer(&base),
            weights: options.weights.into(),
            strength_rule: if options.interpolate {
                sys::LORA_STRENGTH_INTERPOLATE
            } else {
                sys::LORA_STRENGTH_ORIGIN
            },
            ..Default::default()
        };
        self.context().call(|e| {
            // SAFETY: all pointers live through the call.
            unsafe {
                sys::lora_adapter_save_delta(self.raw(), path.as_ptr(), strength, &settings, e)
            }
        })
    }
}

/// The decompositions of an adapter's modules: most of the work of a resize,
/// done once.
pub struct Spectra<'a> {
    raw: NonNull<sys::lora_spectra>,
    adapter: Adapter<'a>,
}

// SAFETY: resize.h: every function on them is safe from any thread, and they
// never change.
unsafe impl Send for Spectra<'_> {}
unsafe impl Sync for Spectra<'_> {}

impl Drop for Spectra<'_> {
    fn drop(&mut self) {
        // SAFETY: they are ours. The adapter, and its context, go after them.
        unsafe { sys::lora_spectra_destroy(self.raw.as_ptr()) }
    }
}

impl<'a> Spectra<'a> {
    /// As [`Adapter::resize`].
    pub fn resize(&self, rule: RankRule, options: &ResizeOptions) -> Result<(Adapter<'a>, Report)> {
        // SAFETY: they are the spectra of this adapter.
        unsafe {
            self.adapter.resized(rule, options, |out, report, rule, settings, e| {
                sys::lora_spectra_resize(out, report, self.raw.as_ptr(), rule, settings, e)
            })
        }
    }
}
