//! Text and paths, to C and back.

use std::ffi::{CStr, CString};
use std::os::raw::c_char;
use std::path::Path;
use std::str;

use crate::codes::Status;
use crate::error::{Error, Result};

/// Text of C. It is UTF-8, as the library refuses names that are not; where a
/// path within it is not, it ends there.
///
/// # Safety
///
/// `pointer` is NULL or a string that lives and stays the same for `'a`.
pub(crate) unsafe fn text<'a>(pointer: *const c_char) -> &'a str {
    if pointer.is_null() {
        return "";
    }
    let bytes = CStr::from_ptr(pointer).to_bytes();
    str::from_utf8(bytes)
        .unwrap_or_else(|error| str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default())
}

/// Text in an array of C, which its first zero ends.
pub(crate) fn array_text(array: &[c_char]) -> String {
    let bytes: Vec<u8> = array.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Text for C, which ends it at its first zero.
pub(crate) fn c_text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(Status::Argument, text, "text with a zero byte"))
}

pub(crate) fn c_texts<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<CString>> {
    texts.map(c_text).collect()
}

pub(crate) fn c_text_option(text: Option<&str>) -> Result<Option<CString>> {
    text.map(c_text).transpose()
}

/// NULL for none. The result lives as long as the text.
pub(crate) fn pointer(text: &Option<CString>) -> *const c_char {
    text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr())
}

#[cfg(unix)]
pub(crate) fn c_path(path: &Path) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| bad_path(path))
}

#[cfg(not(unix))]
pub(crate) fn c_path(path: &Path) -> Result<CString> {
    let utf8 = path.to_str().ok_or_else(|| bad_path(path))?;
    CString::new(utf8).map_err(|_| bad_path(path))
}

fn bad_path(path: &Path) -> Error {
    let subject = path.to_string_lossy();
    Error::new(Status::Argument, &subject, "a path that C cannot be given")
}
