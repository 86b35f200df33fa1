//! Learned tokens: read, taken out, put in, left out.

#[allow(dead_code)]
mod common;

use common::{safetensors, with_header};
use liblora::{Adapter, Context, Dtype, EmbedOptions, OpenOptions, Status};

fn open<'a>(context: &Context, bytes: &'a [u8]) -> Adapter<'a> {
    OpenOptions::new().memory(context, bytes).unwrap()
}

fn names(adapter: &Adapter<'_>) -> Vec<String> {
    adapter.tensors().map(|tensor| tensor.name.to_string()).collect()
}

#[test]
fn tokens() {
    let context = Context::new().unwrap();
    let wide: Vec<f32> = (0..1536).map(|i| i as f32).collect();
    let file = safetensors(&[("<cat>", &[2, 768], &wide), ("<dog>", &[3], &[1.0, 2.0, 3.0])], &[]);
    let plain = common::adapter();
    let (tokens, adapter) = (open(&context, &file), open(&context, &plain));
    let cat = tokens.find_embedding("<cat>", Some("clip_l")).unwrap();
    assert_eq!((cat.token, cat.encoder, cat.form), ("<cat>", "clip_l", "token"));
    assert_eq!((cat.vectors, cat.width, cat.dtype, cat.status), (2, 768, Dtype::F32, None));
    assert_eq!(cat.read::<f32>().unwrap(), wide);
    assert_eq!(tokens.embeddings().map(|e| e.token).collect::<Vec<_>>(), ["<cat>", "<dog>"]);
    assert!(tokens.find_embedding("<cat>", Some("t5")).is_err());
    assert!(tokens.embedding(2).is_err());

    let options = EmbedOptions { dtype: Some(Dtype::F16), ..Default::default() };
    let one = tokens.extract_embeddings(&["<cat>"], &options).unwrap();
    assert_eq!(one.embedding(0).unwrap().dtype, Dtype::F16);
    let rename = EmbedOptions { token: Some("sks".into()), ..Default::default() };
    let both = adapter.insert_embeddings(&[&one], &rename).unwrap();
    assert_eq!(both.tensor_count(), adapter.tensor_count() + 1);
    assert!(names(&both).contains(&"bundle_emb.sks.string_to_param.*".to_string()));
    let error = both.insert_embeddings(&[&one], &rename).err().unwrap();
    assert_eq!((error.status, error.subject.as_str()), (Status::Duplicate, "sks"));
    let without = both.remove_embeddings(&[]).unwrap();
    assert_eq!(names(&without), names(&open(&context, &adapter.to_vec().unwrap())));
}

#[test]
fn unusable() {
    let context = Context::new().unwrap();
    let header = r#"{"<x>":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}"#;
    let file = with_header(header, &[0; 8]);
    let adapter = open(&context, &file);
    let embedding = adapter.embedding(0).unwrap();
    assert_eq!(embedding.status, Some(Status::Dtype));
    assert_eq!(embedding.read::<f64>().err().unwrap().subject, "<x>");
}
