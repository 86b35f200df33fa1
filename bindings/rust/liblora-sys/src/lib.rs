//! The C interface of liblora, as its headers declare it.
//!
//! `build.rs` says where the library comes from. What the functions do, and
//! who owns what, is in the headers; the crate `liblora` is the safe way to
//! use them.
//!
//! Structs that begin with `struct_size` implement [`Default`]: the size, and
//! zero elsewhere, which means the default of every option.

#![allow(non_camel_case_types, clippy::type_complexity)]

use std::marker::{PhantomData, PhantomPinned};
use std::os::raw::{c_char, c_void};

/// `Default` for structs that begin with their size.
macro_rules! sized {
    ($($name:ident,)*) => {$(
        impl Default for $name {
            fn default() -> Self {
                // SAFETY: integers, pointers and optional functions may be 0.
                let zeros: Self = unsafe { std::mem::zeroed() };
                Self { struct_size: std::mem::size_of::<Self>(), ..zeros }
            }
        }
    )*};
}

/// Compares sizes and offsets with those that a C compiler gave on a system of
/// 64 bits.
macro_rules! layout {
    ($($name:ident, $size:literal {
        $($field:ident: $offset:literal, $bytes:literal,)*
    })*) => {
        #[cfg(all(test, target_pointer_width = "64"))]
        mod layout {
            fn size_behind<T>(_: *const T) -> usize {
                std::mem::size_of::<T>()
            }

            $(#[test]
            fn $name() {
                let whole = std::mem::MaybeUninit::<super::$name>::uninit();
                let start = whole.as_ptr();
                assert_eq!(size_behind(start), $size);
                $(
                    // SAFETY: the address of a field, which is not read.
                    let field = unsafe { std::ptr::addr_of!((*start).$field) };
                    let offset = field as usize - start as usize;
                    assert_eq!((offset, size_behind(field)), ($offset, $bytes),
                               concat!(stringify!($name), ".", stringify!($field)));
                )*
            }
            )*
        }
    };
}

include!("ffi.rs");
