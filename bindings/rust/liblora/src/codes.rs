//! The numbers of the C interface as enums. Newer libraries may have numbers
//! that are not known here: these are `Other`.

use std::fmt;
use std::str::FromStr;

use liblora_sys as sys;

use crate::error::{Error, Result};
use crate::text::{c_text, text};

macro_rules! codes {
    ($(#[$about:meta])* $name:ident {
        $($(#[$what:meta])* $variant:ident = $number:ident,)*
    }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$what])* $variant,)*
            /// Unknown to this version of the crate.
            Other(i32),
        }

        impl $name {
            pub(crate) fn from_raw(number: i32) -> Self {
                match number {
                    $(sys::$number => Self::$variant,)*
                    _ => Self::Other(number),
                }
            }

            /// The number in C.
            pub fn raw(self) -> i32 {
                match self {
                    $(Self::$variant => sys::$number,)*
                    Self::Other(number) => number,
                }
            }
        }
    };
}

codes! {
    /// What sort of failure an [`Error`](crate::Error) is.
    Status {
        /// A senseless argument.
        Argument = LORA_ERROR_ARGUMENT,
        /// A call out of order.
        State = LORA_ERROR_STATE,
        /// An index or a value out of range.
        Range = LORA_ERROR_RANGE,
        /// Not in this build, or not for this kind of module.
        Unsupported = LORA_ERROR_UNSUPPORTED,
        /// An option that the library does not know.
        Option = LORA_ERROR_OPTION,
        /// An allocation failed, or was over the context's limit.
        Memory = LORA_ERROR_MEMORY,
        /// The operating system refused.
        Io = LORA_ERROR_IO,
        /// The input is over a limit of the context.
        Limit = LORA_ERROR_LIMIT,
        /// No lock or no thread could be made.
        Thread = LORA_ERROR_THREAD,
        /// Not of the format, or damaged.
        Format = LORA_ERROR_FORMAT,
        /// The input ends too early.
        Truncated = LORA_ERROR_TRUNCATED,
        /// A number type that cannot be used here.
        Dtype = LORA_ERROR_DTYPE,
        /// Shapes that do not fit.
        Shape = LORA_ERROR_SHAPE,
        /// A name that is missing, unknown or without partner.
        Key = LORA_ERROR_KEY,
        /// The same thing twice.
        Duplicate = LORA_ERROR_DUPLICATE,
        /// NaN or infinity.
        NonFinite = LORA_ERROR_NONFINITE,
        /// An iteration did not settle.
        Convergence = LORA_ERROR_CONVERGENCE,
        /// By the progress function or a token.
        Cancelled = LORA_ERROR_CANCELLED,
        /// A fault in liblora: please report it.
        Internal = LORA_ERROR_INTERNAL,
    }
}

impl Status {
    /// The name in C: `FORMAT` for [`Status::Format`].
    pub fn name(self) -> &'static str {
        // SAFETY: takes any number, gives a static string.
        unsafe { text(sys::lora_status_name(self.raw())) }
    }
}

codes! {
    /// The number type of a tensor.
    #[allow(non_camel_case_types)]
    Dtype {
        /// None, or keep what is there.
        None = LORA_DTYPE_NONE,
        Bool = LORA_DTYPE_BOOL,
        F4 = LORA_DTYPE_F4,
        F6_E2M3 = LORA_DTYPE_F6_E2M3,
        F6_E3M2 = LORA_DTYPE_F6_E3M2,
        U8 = LORA_DTYPE_U8,
        I8 = LORA_DTYPE_I8,
        F8_E5M2 = LORA_DTYPE_F8_E5M2,
        F8_E4M3 = LORA_DTYPE_F8_E4M3,
        F8_E8M0 = LORA_DTYPE_F8_E8M0,
        F8_E4M3FNUZ = LORA_DTYPE_F8_E4M3FNUZ,
        F8_E5M2FNUZ = LORA_DTYPE_F8_E5M2FNUZ,
        I16 = LORA_DTYPE_I16,
        U16 = LORA_DTYPE_U16,
        F16 = LORA_DTYPE_F16,
        BF16 = LORA_DTYPE_BF16,
        I32 = LORA_DTYPE_I32,
        U32 = LORA_DTYPE_U32,
        F32 = LORA_DTYPE_F32,
        C64 = LORA_DTYPE_C64,
        F64 = LORA_DTYPE_F64,
        I64 = LORA_DTYPE_I64,
        U64 = LORA_DTYPE_U64,
    }
}

impl Dtype {
    /// Size of one element in bits; 0 for `None` and `Other`.
    pub fn bits(self) -> u32 {
        // SAFETY: takes any number.
        unsafe { sys::lora_dtype_bits(self.raw()) }
    }
}

/// As safetensors spells it, or in lower case: `BF16`, `bf16`.
impl FromStr for Dtype {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let c_name = c_text(name)?;
        // SAFETY: the name lives through the call.
        match Self::from_raw(unsafe { sys::lora_dtype_from_name(c_name.as_ptr()) }) {
            Self::None => Err(Error::new(Status::Dtype, name, "no such number type")),
            dtype => Ok(dtype),
        }
    }
}

/// As safetensors spells it: `F16`, `F8_E4M3`.
impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: takes any number, gives a static string.
        f.write_str(unsafe { text(sys::lora_dtype_name(self.raw())) })
    }
}

codes! {
    /// How bad a [`Problem`](crate::Problem) is.
    Severity {
        Note = LORA_SEVERITY_NOTE,
        Warning = LORA_SEVERITY_WARNING,
        Error = LORA_SEVERITY_ERROR,
    }
}

codes! {
    /// What a line of the log is.
    Level {
        Error = LORA_LOG_ERROR,
        Warning = LORA_LOG_WARNING,
        Info = LORA_LOG_INFO,
        Debug = LORA_LOG_DEBUG,
    }
}

/// The types in which weight changes are computed: `f32` and `f64`.
pub trait Float: private::Sealed + Copy + Default {
    const DTYPE: Dtype;
}

impl Float for f32 {
    const DTYPE: Dtype = Dtype::F32;
}

impl Float for f64 {
    const DTYPE: Dtype = Dtype::F64;
}

mod private {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers and names as lora/status.h has them.
    #[test]
    fn statuses() {
        let all = [
            (-1, Status::Argument, "ARGUMENT"),
            (-2, Status::State, "STATE"),
            (-3, Status::Range, "RANGE"),
            (-4, Status::Unsupported, "UNSUPPORTED"),
            (-5, Status::Option, "OPTION"),
            (-100, Status::Memory, "MEMORY"),
            (-101, Status::Io, "IO"),
            (-102, Status::Limit, "LIMIT"),
            (-103, Status::Thread, "THREAD"),
            (-200, Status::Format, "FORMAT"),
            (-201, Status::Truncated, "TRUNCATED"),
            (-202, Status::Dtype, "DTYPE"),
            (-203, Status::Shape, "SHAPE"),
            (-204, Status::Key, "KEY"),
            (-205, Status::Duplicate, "DUPLICATE"),
            (-300, Status::NonFinite, "NONFINITE"),
            (-301, Status::Convergence, "CONVERGENCE"),
            (-400, Status::Cancelled, "CANCELLED"),
            (-500, Status::Internal, "INTERNAL"),
            (-999, Status::Other(-999), "UNKNOWN"),
        ];
        for (number, status, name) in all {
            assert_eq!(Status::from_raw(number), status);
            assert_eq!((status.raw(), status.name()), (number, name));
        }
    }

    #[test]
    fn dtypes() {
        assert_eq!((Dtype::BF16.to_string().as_str(), Dtype::BF16.bits()), ("BF16", 16));
        assert_eq!(Dtype::F8_E4M3.to_string(), "F8_E4M3");
        assert_eq!("bf16".parse(), Ok(Dtype::BF16));
        assert_eq!("F12".parse::<Dtype>().unwrap_err().subject, "F12");
        assert_eq!((Dtype::Other(99).to_string().as_str(), Dtype::Other(99).bits()), ("NONE", 0));
    }
}
