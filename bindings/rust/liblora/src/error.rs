//! Failures.

use std::fmt;

use liblora_sys as sys;

use crate::codes::Status;
use crate::text::array_text;

pub type Result<T> = std::result::Result<T, Error>;

/// What failed, where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Error {
    pub status: Status,
    /// The file, tensor, module or option it is about; may be empty.
    pub subject: String,
    /// The byte in the input, where one is known.
    pub offset: Option<u64>,
    /// One line: what is wrong, and what to do where that helps.
    pub message: String,
    /// `errno` or `GetLastError()`; 0 where the system is not to blame.
    pub os_error: i32,
}

impl Error {
    pub(crate) fn new(status: Status, subject: &str, message: &str) -> Self {
        Self {
            status,
            subject: subject.to_owned(),
            offset: None,
            message: message.to_owned(),
            os_error: 0,
        }
    }

    fn from_record(status: sys::lora_status, record: &sys::lora_error) -> Self {
        Self {
            status: Status::from_raw(status),
            subject: array_text(&record.subject),
            offset: Some(record.offset).filter(|&offset| offset != sys::LORA_NO_OFFSET),
            message: array_text(&record.message),
            os_error: record.os_error,
        }
    }
}

/// `subject: message (at byte offset)`
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.subject.is_empty() {
            write!(f, "{}: ", self.subject)?;
        }
        f.write_str(&self.message)?;
        match self.offset {
            Some(offset) => write!(f, " (at byte {offset})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Call C with an error record, and turn what it fills in into an `Error`.
pub(crate) fn check(call: impl FnOnce(*mut sys::lora_error) -> sys::lora_status) -> Result<()> {
    let mut record = sys::lora_error::default();
    // SAFETY: a record of this size.
    unsafe { sys::lora_error_init(&mut record, record.struct_size) };
    let status = call(&mut record);
    if status == sys::LORA_OK {
        Ok(())
    } else {
        Err(Error::from_record(status, &record))
    }
}
