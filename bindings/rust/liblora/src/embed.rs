//! Learned tokens, of textual inversion and pivotal tuning: in files of their
//! own and in those of adapters.

use std::ptr;

use liblora_sys as sys;

use crate::codes::{Dtype, Float, Status};
use crate::error::{Error, Result};
use crate::operation::dtype_code;
use crate::text::{c_text, c_text_option, c_texts, pointer, text};
use crate::{buffer, Adapter};

/// The vectors of a token for one text encoder.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Embedding<'a> {
    adapter: &'a Adapter<'a>,
    pub index: usize,
    /// What prompts call it; empty if nothing says it.
    pub token: &'a str,
    /// `clip_l`, `clip_g`, ...; empty if it is not known.
    pub encoder: &'a str,
    /// How its tensor is named: `token`, `a1111`, `emb_params`, `encoder`,
    /// `bundle`.
    pub form: &'a str,
    /// The index of its tensor.
    pub tensor: usize,
    pub vectors: i64,
    pub width: i64,
    pub dtype: Dtype,
    /// Why operations refuse it.
    pub status: Option<Status>,
}

impl Embedding<'_> {
    /// The numbers, vector by vector, converted.
    pub fn read<T: Float>(&self) -> Result<Vec<T>> {
        let elements = usize::try_from(self.vectors)
            .ok()
            .zip(usize::try_from(self.width).ok())
            .and_then(|(vectors, width)| vectors.checked_mul(width));
        let elements =
            elements.ok_or_else(|| Error::new(Status::Memory, self.token, "too many numbers"))?;
        let mut out: Vec<T> = buffer(elements)?;
        let bytes = std::mem::size_of_val(out.as_slice());
        self.adapter.context().call(|e| {
            // SAFETY: out has so many bytes, and any bits are a T.
            unsafe {
                sys::lora_adapter_read_embedding(
                    out.as_mut_ptr().cast(),
                    bytes,
                    self.adapter.raw(),
                    self.index,
                    T::DTYPE.raw(),
                    e,
                )
            }
        })?;
        Ok(out)
    }
}

/// How tokens are written, and what they are called.
#[derive(Clone, Debug, Default)]
pub struct EmbedOptions {
    /// `token`, `encoder`, `bundle` or `emb_params`; the one that programs read.
    pub form: Option<String>,
    /// What the only token is to be called.
    pub token: Option<String>,
    /// The base that they are put into, instead of the guess.
    pub family: Option<String>,
    /// Of the vectors; as they are.
    pub dtype: Option<Dtype>,
    /// Tokens that are there already are replaced, not refused.
    pub replace: bool,
}

impl EmbedOptions {
    /// One call, all texts of which live through it.
    fn with<R>(
        &self,
        call: impl FnOnce(&sys::lora_adapter_embed_options) -> Result<R>,
    ) -> Result<R> {
        let form = c_text_option(self.form.as_deref())?;
        let token = c_text_option(self.token.as_deref())?;
        let family = c_text_option(self.family.as_deref())?;
        call(&sys::lora_adapter_embed_options {
            form: pointer(&form),
            token: pointer(&token),
            family: pointer(&family),
            dtype: dtype_code(self.dtype),
            replace: self.replace.into(),
            ..Default::default()
        })
    }
}

impl<'a> Adapter<'a> {
    pub fn embedding_count(&self) -> usize {
        // SAFETY: the adapter lives as long as self.
        unsafe { sys::lora_adapter_embedding_count(self.raw()) }
    }

    pub fn embedding(&self, index: usize) -> Result<Embedding<'_>> {
        let mut row = sys::lora_embedding_info::default();
        // SAFETY: strings handed out live as long as the adapter.
        unsafe {
            self.context()
                .call(|e| sys::lora_adapter_get_embedding(&mut row, self.raw(), index, e))?;
            Ok(Embedding {
                adapter: self,
                index,
                token: text(row.token),
                encoder: text(row.encoder),
                form: text(row.form),
                tensor: row.tensor_index as usize,
                vectors: row.vectors,
                width: row.width,
                dtype: Dtype::from_raw(row.dtype),
                status: Some(row.status).filter(|&s| s != sys::LORA_OK).map(Status::from_raw),
            })
        }
    }

    /// All embeddings, in the order of the file.
    pub fn embeddings(&self) -> impl Iterator<Item = Embedding<'_>> {
        (0..self.embedding_count()).filter_map(move |index| self.embedding(index).ok())
    }

    /// The embedding of a token; of several text encoders the first, unless one
    /// is named.
    pub fn find_embedding(&self, token: &str, encoder: Option<&str>) -> Result<Embedding<'_>> {
        let token = c_text(token)?;
        let encoder = c_text_option(encoder)?;
        let mut index = 0;
        self.context().call(|e| {
            // SAFETY: all pointers live through the call.
            unsafe {
                sys::lora_adapter_find_embedding(
                    &mut index,
                    self.raw(),
                    token.as_ptr(),
                    pointer(&encoder),
                    e,
                )
            }
        })?;
        self.embedding(index)
    }

    /// These tokens alone, or all if there is none among them.
    pub fn extract_embeddings(&self, tokens: &[&str], options: &EmbedOptions) -> Result<Self> {
        let tokens = c_texts(tokens.iter().copied())?;
        let tokens: Vec<_> = tokens.iter().map(|token| token.as_ptr()).collect();
        let mut out = ptr::null_mut();
        options.with(|settings| {
            self.context().call(|e| {
                // SAFETY: all pointers live through the call.
                unsafe {
                    sys::lora_adapter_extract_embeddings(
                        &mut out,
                        self.raw(),
                        tokens.as_ptr(),
                        tokens.len(),
                        settings,
                        e,
                    )
                }
            })
        })?;
        // SAFETY: ours; it reads from what self reads from.
        unsafe { Self::from_raw(out, self.context()) }
    }

    /// The same with the tokens of other files.
    pub fn insert_embeddings(
        &self,
        sources: &[&Adapter<'a>],
        options: &EmbedOptions,
    ) -> Result<Self> {
        let sources: Vec<_> = sources.iter().map(|source| source.raw()).collect();
        let mut out = ptr::null_mut();
        options.with(|settings| {
            self.context().call(|e| {
                // SAFETY: all pointers live through the call.
                unsafe {
                    sys::lora_adapter_insert_embeddings(
                        &mut out,
                        self.raw(),
                        sources.as_ptr(),
                        sources.len(),
                        settings,
                        e,
                    )
                }
            })
        })?;
        // SAFETY: ours; it reads from what self and the sources read from, none
        // of which ends before 'a.
        unsafe { Self::from_raw(out, self.context()) }
    }

    /// The same without these tokens, or without any if there is none among
    /// them.
    pub fn remove_embeddings(&self, tokens: &[&str]) -> Result<Self> {
        let tokens = c_texts(tokens.iter().copied())?;
        let tokens: Vec<_> = tokens.iter().map(|token| token.as_ptr()).collect();
        let mut out = ptr::null_mut();
        self.context().call(|e| {
            // SAFETY: all pointers live through the call.
            unsafe {
                sys::lora_adapter_remove_embeddings(
                    &mut out,
                    self.raw(),
                    tokens.as_ptr(),
                    tokens.len(),
                    e,
                )
            }
        })?;
        // SAFETY: ours; it reads from what self reads from.
        unsafe { Self::from_raw(out, self.context()) }
    }
}
