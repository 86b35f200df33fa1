//! Reports: what an operation found or did.

use std::ptr::NonNull;

use liblora_sys as sys;

use crate::codes::{Severity, Status};
use crate::context::{non_null, Context};
use crate::error::Result;
use crate::text::text;

/// What an operation found or did, as numbers and as JSON.
pub struct Report {
    raw: NonNull<sys::lora_report>,
    context: Context,
}

// SAFETY: report.h: "any number of threads may read one report", which is
// immutable, and destroying is safe from any thread.
unsafe impl Send for Report {}
unsafe impl Sync for Report {}

impl Drop for Report {
    fn drop(&mut self) {
        // SAFETY: ours, once. The context is dropped after it.
        unsafe { sys::lora_report_destroy(self.raw.as_ptr()) }
    }
}

/// Something noteworthy about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem<'a> {
    /// Stable, such as `missing_pair`.
    pub code: &'a str,
    /// Tensor, module or metadata key; empty if the file.
    pub subject: &'a str,
    pub message: &'a str,
    pub severity: Severity,
    /// What an operation on it would fail with, if it would.
    pub status: Option<Status>,
}

/// One layer of a report on ranks; numbers are of the scaled weight change.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Layer<'a> {
    /// As stored in the file.
    pub name: &'a str,
    /// Singular values, descending.
    pub sigma: &'a [f64],
    pub rank_in: i64,
    pub rank_out: i64,
    /// Sum of the squares of what was kept, of that of all; 1 for a zero layer.
    pub energy: f64,
    /// Frobenius norm of what was dropped, after rounding.
    pub error: f64,
    /// The largest singular value dropped; 0 if none.
    pub spectral: f64,
    /// The kept share of the Frobenius norm: the root of `energy`.
    pub frobenius: f64,
    /// The largest singular value; 0 for a zero layer.
    pub largest: f64,
    /// The least singular value kept.
    pub least: f64,
    /// Sum of the squares of the singular values, of the largest's.
    pub stable_rank: f64,
    /// exp of the entropy of their shares of their sum.
    pub effective_rank: f64,
}

/// How problems are read, and fixes.
type GetProblem = unsafe extern "C" fn(
    *mut sys::lora_problem,
    *const sys::lora_report,
    usize,
    *mut sys::lora_error,
) -> sys::lora_status;

impl Report {
    /// # Safety
    ///
    /// `raw` is a report of `context`, owned by nobody else.
    pub(crate) unsafe fn from_raw(raw: *mut sys::lora_report, context: &Context) -> Result<Self> {
        Ok(Self { raw: non_null(raw)?, context: context.clone() })
    }

    /// The whole report as one JSON object.
    pub fn to_json(&self) -> &str {
        // SAFETY: strings handed out live as long as the report.
        unsafe { text(sys::lora_report_to_json(self.raw.as_ptr(), std::ptr::null_mut())) }
    }

    pub fn problems(&self) -> impl Iterator<Item = Problem<'_>> {
        // SAFETY: the report lives as long as self.
        let count = unsafe { sys::lora_report_problem_count(self.raw.as_ptr()) };
        (0..count).filter_map(move |index| self.row(sys::lora_report_get_problem, index).ok())
    }

    /// What [`Adapter::fix`](crate::Adapter::fix) repaired; none in other reports.
    pub fn fixes(&self) -> impl Iterator<Item = Problem<'_>> {
        // SAFETY: the report lives as long as self.
        let count = unsafe { sys::lora_report_fix_count(self.raw.as_ptr()) };
        (0..count).filter_map(move |index| self.row(sys::lora_report_get_fix, index).ok())
    }

    fn row(&self, get: GetProblem, index: usize) -> Result<Problem<'_>> {
        let mut row = sys::lora_problem::default();
        // SAFETY: strings handed out live as long as the report.
        unsafe {
            self.context.call(|e| get(&mut row, self.raw.as_ptr(), index, e))?;
            Ok(Problem {
                code: text(row.code),
                subject: text(row.subject),
                message: text(row.message),
                severity: Severity::from_raw(row.severity),
                status: Some(row.status).filter(|&s| s != sys::LORA_OK).map(Status::from_raw),
            })
        }
    }

    /// Layers of a report on ranks; none in other reports.
    pub fn layers(&self) -> impl Iterator<Item = Layer<'_>> {
        // SAFETY: the report lives as long as self.
        let count = unsafe { sys::lora_report_module_count(self.raw.as_ptr()) };
        (0..count).filter_map(move |index| self.layer(index).ok())
    }

    fn layer(&self, index: usize) -> Result<Layer<'_>> {
        let mut row = sys::lora_report_module::default();
        // SAFETY: strings and arrays handed out live as long as the report.
        unsafe {
            self.context
                .call(|e| sys::lora_report_get_module(&mut row, self.raw.as_ptr(), index, e))?;
            let sigma: &[f64] = if row.sigma_count == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(row.sigma, row.sigma_count)
            };
            Ok(Layer {
                name: text(row.name),
                sigma,
                rank_in: row.rank_in,
                rank_out: row.rank_out,
                energy: row.energy,
                error: row.error,
                spectral: row.spectral,
                frobenius: row.frobenius,
                largest: row.largest,
                least: row.least,
                stable_rank: row.stable_rank,
                effective_rank: row.effective_rank,
            })
        }
    }
}
