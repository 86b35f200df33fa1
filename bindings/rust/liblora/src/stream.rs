//! Where bytes come from and go to, other than files: readers and writers of
//! the host.

use std::io::{self, Write};
use std::os::raw::c_void;
use std::panic::{self, AssertUnwindSafe};
use std::{ptr, slice};

use liblora_sys as sys;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::Adapter;

/// Reads by offset, from several threads at once: an archive, a download.
pub trait ReadAt: Send + Sync {
    /// Size of the input in bytes, which does not change.
    fn size(&self) -> io::Result<u64>;

    /// Read at `offset`; less than asked for only at the end of the input.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize>;
}

/// What C keeps for a reader of the host.
struct Reader<R> {
    reader: R,
    context: Context,
}

impl<R> Reader<R> {
    fn run<T>(&self, read: impl FnOnce(&R) -> io::Result<T>, out: &mut T) -> sys::lora_status {
        match self.context.guard(|| read(&self.reader)) {
            Some(Ok(value)) => {
                *out = value;
                sys::LORA_OK
            }
            Some(Err(_)) => sys::LORA_ERROR_IO,
            None => sys::LORA_ERROR_INTERNAL,
        }
    }
}

/// The table for a reader; its `destroy` drops it.
pub(crate) fn reader_table<R: ReadAt>(context: &Context, reader: R) -> sys::lora_reader {
    let user = Box::into_raw(Box::new(Reader { reader, context: context.clone() }));
    sys::lora_reader {
        user: user.cast(),
        size: Some(on_size::<R>),
        read_at: Some(on_read::<R>),
        destroy: Some(on_destroy::<R>),
        ..Default::default()
    }
}

// SAFETY, of these three: `user` is what reader_table() made, and lives until
// on_destroy; the others are places to write to, of `bytes` bytes.

unsafe extern "C" fn on_size<R: ReadAt>(user: *mut c_void, out: *mut u64) -> sys::lora_status {
    let reader = &*(user as *const Reader<R>);
    reader.run(R::size, &mut *out)
}

unsafe extern "C" fn on_read<R: ReadAt>(
    user: *mut c_void,
    offset: u64,
    buffer: *mut c_void,
    bytes: usize,
    out_got: *mut usize,
) -> sys::lora_status {
    let reader = &*(user as *const Reader<R>);
    if bytes == 0 {
        *out_got = 0;
        return sys::LORA_OK;
    }
    // A reader may look at what it is given before it writes there.
    ptr::write_bytes(buffer.cast::<u8>(), 0, bytes);
    let out = slice::from_raw_parts_mut(buffer.cast(), bytes);
    // A count that is too high is refused by C.
    reader.run(|r| r.read_at(offset, out), &mut *out_got)
}

unsafe extern "C" fn on_destroy<R>(user: *mut c_void) {
    let reader = Box::from_raw(user as *mut Reader<R>);
    // No call fails of it, so none could pass a panic on.
    let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(reader)));
}

/// A writer of the host during one call, and what it failed with.
struct Writer<'w> {
    writer: &'w mut dyn Write,
    context: &'w Context,
    failed: Option<io::Error>,
}

impl Writer<'_> {
    fn run(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> sys::lora_status {
        let writer = &mut *self.writer;
        match self.context.guard(|| write(writer)) {
            Some(Ok(())) => sys::LORA_OK,
            Some(Err(error)) => {
                self.failed = Some(error);
                sys::LORA_ERROR_IO
            }
            None => sys::LORA_ERROR_INTERNAL,
        }
    }
}

// SAFETY, of both: `user` is the writer of save_to() below, which is Send: io.h
// promises one thread, not which.

unsafe extern "C" fn on_write(
    user: *mut c_void,
    data: *const c_void,
    bytes: usize,
) -> sys::lora_status {
    if bytes == 0 {
        return sys::LORA_OK;
    }
    let data = slice::from_raw_parts(data.cast(), bytes);
    (*(user as *mut Writer)).run(|w| w.write_all(data))
}

unsafe extern "C" fn on_finish(user: *mut c_void) -> sys::lora_status {
    (*(user as *mut Writer)).run(|w| w.flush())
}

impl Adapter<'_> {
    /// Write what [`save`](Adapter::save) would, and flush. After a failure a
    /// part of it may be written.
    pub fn save_to(&self, mut writer: impl Write + Send) -> Result<()> {
        let context = self.context();
        let mut writer = Writer { writer: &mut writer, context, failed: None };
        let table = sys::lora_writer {
            user: (&mut writer as *mut Writer).cast(),
            write: Some(on_write),
            finish: Some(on_finish),
            ..Default::default()
        };
        // SAFETY: all pointers live through the call.
        let done =
            context.call(|e| unsafe { sys::lora_adapter_save_writer(self.raw(), &table, e) });
        done.map_err(|error| match writer.failed {
            Some(failed) => Error {
                message: failed.to_string(),
                os_error: failed.raw_os_error().unwrap_or(0),
                ..error
            },
            None => error,
        })
    }
}
