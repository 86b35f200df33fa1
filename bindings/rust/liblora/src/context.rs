//! Contexts: threads, limits, progress, log and cancelling.

use std::any::Any;
use std::ops::ControlFlow;
use std::os::raw::{c_char, c_void};
use std::panic::{self, AssertUnwindSafe};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex};

use liblora_sys as sys;

use crate::codes::{Level, Status};
use crate::error::{check, Error, Result};
use crate::text::text;

type ProgressFn = dyn Fn(&str, u64, u64) -> ControlFlow<()> + Send + Sync;
type LogFn = dyn Fn(Level, &str) + Send + Sync;

/// What the library may use. A clone is the same context.
///
/// ```
/// let context = liblora::Context::builder().threads(4).build()?;
/// # Ok::<(), liblora::Error>(())
/// ```
#[derive(Clone)]
pub struct Context(Arc<Shared>);

/// The context of C and the functions it calls, which must outlive it: it
/// lives as long as any handle made from it, so each of ours holds this.
struct Shared {
    raw: NonNull<sys::lora_context>,
    hooks: Box<Hooks>,
}

#[derive(Default)]
struct Hooks {
    progress: Option<Box<ProgressFn>>,
    log: Option<Box<LogFn>>,
    /// What a function panicked with, kept while C is between it and us.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: context.h: "a context may be shared", and its functions are safe to
// call from any thread. The hooks are Send and Sync themselves.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: ours, once. The hooks are dropped after it.
        unsafe { sys::lora_context_destroy(self.raw.as_ptr()) }
    }
}

impl Context {
    /// Defaults: one thread, no limit on memory, silence.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    pub fn builder() -> ContextBuilder {
        ContextBuilder::default()
    }

    /// The most memory that was live at once, in bytes.
    pub fn memory_peak(&self) -> u64 {
        // SAFETY: the context lives as long as self.
        unsafe { sys::lora_context_memory_peak(self.raw()) }
    }

    /// The memory that is live now, in bytes.
    pub fn memory_live(&self) -> u64 {
        // SAFETY: as above.
        unsafe { sys::lora_context_memory_live(self.raw()) }
    }

    pub(crate) fn raw(&self) -> *mut sys::lora_context {
        self.0.raw.as_ptr()
    }

    /// Call an operation of this context. What a function of the host panicked
    /// with meanwhile goes on from here: it is that which made the call fail.
    pub(crate) fn call(
        &self,
        call: impl FnOnce(*mut sys::lora_error) -> sys::lora_status,
    ) -> Result<()> {
        check(call).map_err(|error| {
            if let Some(payload) = take(&self.0.hooks.panic) {
                panic::resume_unwind(payload);
            }
            error
        })
    }

    /// Run a function of the host for C, through which a panic must not go.
    pub(crate) fn guard<T>(&self, run: impl FnOnce() -> T) -> Option<T> {
        self.0.hooks.guard(run)
    }
}

impl Hooks {
    fn guard<T>(&self, run: impl FnOnce() -> T) -> Option<T> {
        match panic::catch_unwind(AssertUnwindSafe(run)) {
            Ok(value) => Some(value),
            Err(payload) => {
                *self.panic.lock().unwrap_or_else(|e| e.into_inner()) = Some(payload);
                None
            }
        }
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(|e| e.into_inner()).take()
}

/// Settings of a [`Context`].
#[derive(Default)]
pub struct ContextBuilder {
    threads: u32,
    limits: sys::lora_limits,
    cancel: Option<CancelToken>,
    hooks: Hooks,
}

impl ContextBuilder {
    /// Threads of the context's own, up to 256; 0 and 1: none.
    pub fn threads(mut self, count: u32) -> Self {
        self.threads = count;
        self
    }

    /// The most memory that may be live at once.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.limits.memory_bytes = bytes;
        self
    }

    /// The longest header of a safetensors file.
    pub fn header_limit(mut self, bytes: u64) -> Self {
        self.limits.header_bytes = bytes;
        self
    }

    /// The most tensors in a file.
    pub fn tensor_limit(mut self, count: u64) -> Self {
        self.limits.tensor_count = count;
        self
    }

    /// The longest name of a tensor.
    pub fn name_limit(mut self, bytes: u64) -> Self {
        self.limits.name_bytes = bytes;
        self
    }

    /// The highest rank of a module.
    pub fn rank_limit(mut self, rank: u64) -> Self {
        self.limits.rank = rank;
        self
    }

    /// Stop operations when this token is cancelled.
    pub fn cancel(mut self, token: &CancelToken) -> Self {
        self.cancel = Some(token.clone());
        self
    }

    /// Be told the stage, how much of it is done, and of how much, by whichever
    /// thread finished a part; `Break` cancels the operation. A panic cancels it
    /// too, and goes on in the thread that waits for it. Must not start another
    /// operation of the same context.
    pub fn progress<F>(mut self, told: F) -> Self
    where
        F: Fn(&str, u64, u64) -> ControlFlow<()> + Send + Sync + 'static,
    {
        self.hooks.progress = Some(Box::new(told));
        self
    }

    /// Take lines of the log. A panic in it ends there.
    pub fn log<F>(mut self, take: F) -> Self
    where
        F: Fn(Level, &str) + Send + Sync + 'static,
    {
        self.hooks.log = Some(Box::new(take));
        self
    }

    pub fn build(self) -> Result<Context> {
        check_version()?;
        let hooks = Box::new(self.hooks);
        let user = &*hooks as *const Hooks as *mut c_void;
        let mut options = sys::lora_context_options {
            limits: &self.limits,
            cancel: self.cancel.as_ref().map_or(ptr::null_mut(), CancelToken::raw),
            max_threads: self.threads,
            ..Default::default()
        };
        if hooks.progress.is_some() {
            options.progress = Some(on_progress);
            options.progress_user = user;
        }
        if hooks.log.is_some() {
            options.log = Some(on_log);
            options.log_user = user;
        }
        let mut raw = ptr::null_mut();
        // SAFETY: what the options point to lives; the library copies the
        // limits and keeps the token alive itself.
        check(|error| unsafe { sys::lora_context_create(&mut raw, &options, error) })?;
        Ok(Context(Arc::new(Shared { raw: non_null(raw)?, hooks })))
    }
}

/// A library that is linked dynamically may be another than at build time.
fn check_version() -> Result<()> {
    // SAFETY: no conditions.
    let number = unsafe { sys::lora_version_number() };
    if number / 1000 == sys::LORA_VERSION_NUMBER as u32 / 1000 {
        return Ok(());
    }
    let message =
        format!("version {} of liblora is for {}", crate::version(), sys::LORA_VERSION_STRING);
    Err(Error::new(Status::Unsupported, "liblora", &message))
}

/// A handle that C gave after success, which is not NULL.
pub(crate) fn non_null<T>(raw: *mut T) -> Result<NonNull<T>> {
    NonNull::new(raw).ok_or_else(|| Error::new(Status::Internal, "", "success without a result"))
}

unsafe extern "C" fn on_progress(
    user: *mut c_void,
    stage: *const c_char,
    done: u64,
    total: u64,
) -> i32 {
    // SAFETY: the hooks outlive the context, and are only read.
    let hooks = &*(user as *const Hooks);
    let told = hooks.guard(|| match &hooks.progress {
        Some(told) => told(text(stage), done, total).is_break(),
        None => false,
    });
    told.unwrap_or(true) as i32
}

unsafe extern "C" fn on_log(user: *mut c_void, level: sys::lora_log_level, line: *const c_char) {
    // SAFETY: as above.
    let hooks = &*(user as *const Hooks);
    if let Some(take) = &hooks.log {
        // No call fails of it, so none could pass the panic on.
        let _ = panic::catch_unwind(AssertUnwindSafe(|| take(Level::from_raw(level), text(line))));
    }
}

/// Stops the operations of the contexts that have it, from any thread. A clone
/// is the same token.
#[derive(Clone)]
pub struct CancelToken(Arc<Token>);

struct Token(NonNull<sys::lora_cancel_token>);

// SAFETY: context.h: cancelling and resetting are safe from any thread.
unsafe impl Send for Token {}
unsafe impl Sync for Token {}

impl Drop for Token {
    fn drop(&mut self) {
        // SAFETY: ours, once; contexts keep it alive themselves.
        unsafe { sys::lora_cancel_token_destroy(self.0.as_ptr()) }
    }
}

impl CancelToken {
    pub fn new() -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: no conditions.
        check(|error| unsafe { sys::lora_cancel_token_create(&mut raw, error) })?;
        Ok(Self(Arc::new(Token(non_null(raw)?))))
    }

    /// Running operations, and those to come, fail with
    /// [`Status::Cancelled`].
    pub fn cancel(&self) {
        // SAFETY: the token lives as long as self.
        unsafe { sys::lora_cancel_token_cancel(self.raw()) }
    }

    /// Make it usable again.
    pub fn reset(&self) {
        // SAFETY: as above.
        unsafe { sys::lora_cancel_token_reset(self.raw()) }
    }

    fn raw(&self) -> *mut sys::lora_cancel_token {
        self.0 .0.as_ptr()
    }
}
