//! Extraction: an adapter from two checkpoints.

use std::path::{Path, PathBuf};
use std::ptr;

use liblora_sys as sys;

use crate::codes::Dtype;
use crate::context::Context;
use crate::error::Result;
use crate::operation::{dtype_code, Counting, Overrides, RankRule, Split};
use crate::text::{c_path, c_text_option, c_texts, pointer};
use crate::{Adapter, Report};

/// What layers become. Biases and norms become what they are in the dialect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtractKind {
    /// Pairs of factors.
    #[default]
    Locon,
    /// The same without k × k convolutions.
    Lora,
    /// k × k convolutions with a core.
    Tucker,
    /// The nearest Kronecker product.
    Lokr,
    /// The difference itself.
    Full,
}

impl ExtractKind {
    fn raw(self) -> sys::lora_extract_kind {
        match self {
            Self::Locon => sys::LORA_EXTRACT_LOCON,
            Self::Lora => sys::LORA_EXTRACT_LORA,
            Self::Tucker => sys::LORA_EXTRACT_TUCKER,
            Self::Lokr => sys::LORA_EXTRACT_LOKR,
            Self::Full => sys::LORA_EXTRACT_FULL,
        }
    }
}

/// What [`Adapter::extract`] may be told besides its rule.
#[derive(Clone, Debug, Default)]
pub struct ExtractOptions {
    /// For k × k convolutions.
    pub conv_rule: Option<RankRule>,
    /// For layers whose name matches a pattern (`*` any bytes, `?` one); the
    /// last that matches holds.
    pub overrides: Vec<(String, RankRule)>,
    pub max_rank: Option<i32>,
    pub min_rank: Option<i32>,
    pub kind: ExtractKind,
    /// Of LoKr: dimensions are split by it.
    pub factor: Option<i32>,
    /// Patterns of the layers that are wanted; all, if there are none.
    pub include: Vec<String>,
    /// Patterns of those that are not.
    pub exclude: Vec<String>,
    /// Of the names; `diffusers` by default.
    pub dialect: Option<String>,
    /// Of the factors; F16 by default, or BF16 where the tuned checkpoint is.
    pub dtype: Option<Dtype>,
    /// Of the sketches by which large layers are decomposed.
    pub seed: u64,
    /// Cut factors at this quantile, as kohya's tool at 0.99.
    pub clamp: Option<f64>,
    /// Decompose in full instead of by a sketch.
    pub exact: bool,
    pub counting: Counting,
    pub split: Split,
    /// A file to keep what is done in. It is the caller's to remove, once the
    /// adapter was saved and dropped.
    pub journal: Option<PathBuf>,
    /// Go on with the journal of an earlier call.
    pub resume: bool,
    /// Leave out layers whose shapes differ, instead of refusing.
    pub skip_shapes: bool,
    /// Leave out layers with NaN or infinities, instead of refusing.
    pub skip_bad: bool,
}

impl ExtractOptions {
    fn flags(&self) -> u32 {
        let all = [
            (self.exact, sys::LORA_EXTRACT_EXACT),
            (self.skip_shapes, sys::LORA_EXTRACT_SKIP_SHAPES),
            (self.skip_bad, sys::LORA_EXTRACT_SKIP_BAD),
            (self.resume, sys::LORA_EXTRACT_RESUME),
        ];
        all.iter().filter(|(wanted, _)| *wanted).map(|(_, bit)| *bit as u32).sum()
    }
}

impl Adapter<'static> {
    /// The adapter that turns one checkpoint into another, each a file, an
    /// index of shards, or a folder of diffusers'. Without a rule as many
    /// directions are kept as are more than rounding noise.
    pub fn extract(
        context: &Context,
        base: impl AsRef<Path>,
        tuned: impl AsRef<Path>,
        rule: Option<RankRule>,
        options: &ExtractOptions,
    ) -> Result<(Self, Report)> {
        let (base, tuned) = (c_path(base.as_ref())?, c_path(tuned.as_ref())?);
        let rule = rule.map(RankRule::raw);
        let conv_rule = options.conv_rule.map(RankRule::raw);
        let overrides = Overrides::new(&options.overrides)?;
        let include = c_texts(options.include.iter().map(String::as_str))?;
        let include: Vec<_> = include.iter().map(|pattern| pattern.as_ptr()).collect();
        let exclude = c_texts(options.exclude.iter().map(String::as_str))?;
        let exclude: Vec<_> = exclude.iter().map(|pattern| pattern.as_ptr()).collect();
        let dialect = c_text_option(options.dialect.as_deref())?;
        let journal = options.journal.as_deref().map(c_path).transpose()?;
        let settings = sys::lora_adapter_extract_options {
            conv_rule: conv_rule.as_ref().map_or(ptr::null(), |rule| rule),
            overrides: overrides.rows.as_ptr(),
            override_count: overrides.rows.len(),
            include: include.as_ptr(),
            include_count: include.len(),
            exclude: exclude.as_ptr(),
            exclude_count: exclude.len(),
            dialect: pointer(&dialect),
            journal: pointer(&journal),
            seed: options.seed,
            clamp: options.clamp.unwrap_or(0.0),
            max_rank: options.max_rank.unwrap_or(0),
            min_rank: options.min_rank.unwrap_or(0),
            dtype: dtype_code(options.dtype),
            kind: options.kind.raw(),
            counting: options.counting.raw(),
            split: options.split.raw(),
            lokr_factor: options.factor.unwrap_or(0),
            flags: options.flags(),
            ..Default::default()
        };
        let rule = rule.as_ref().map_or(ptr::null(), |rule| rule);
        let (mut out, mut report) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: all pointers live through the call, and the results are ours.
        unsafe {
            context.call(|e| {
                sys::lora_adapter_extract(
                    &mut out,
                    &mut report,
                    context.raw(),
                    base.as_ptr(),
                    tuned.as_ptr(),
                    rule,
                    &settings,
                    e,
                )
            })?;
            let report = Report::from_raw(report, context)?;
            Ok((Self::from_raw(out, context)?, report))
        }
    }
}
