//! An adapter from two checkpoints, whose difference is known by hand.

#[allow(dead_code)]
mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use common::{folder, safetensors};
use liblora::{
    Adapter, Context, Counting, Dtype, ExtractKind, ExtractOptions, RankRule, Split, Status,
};

const Q: &str = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
const CONV: &str = "down_blocks.0.resnets.0.conv1";

/// q: a diagonal of 4, 2, 1; the convolution: its first output, 3 everywhere.
fn tuned(q: &mut [f32; 48], conv: &mut [f32; 72]) {
    for (i, value) in [4.0, 2.0, 1.0].iter().enumerate() {
        q[i * 8 + i] += value;
    }
    conv[..18].iter_mut().for_each(|n| *n += 3.0);
}

fn write(path: &Path, q: &[f32], conv: &[f32]) {
    let (q_name, conv_name) = (format!("{Q}.weight"), format!("{CONV}.weight"));
    let tensors: [(&str, &[i64], &[f32]); 2] =
        [(&q_name, &[6, 8], q), (&conv_name, &[4, 2, 3, 3], conv)];
    std::fs::write(path, safetensors(&tensors, &[])).unwrap();
}

/// The folder, and the two checkpoints in it.
fn pair(name: &str) -> (PathBuf, PathBuf, PathBuf) {
    let folder = folder(name);
    let paths = (folder.join("base.safetensors"), folder.join("tuned.safetensors"));
    let (mut q, mut conv) = ([0.5; 48], [0.25; 72]);
    write(&paths.0, &q, &conv);
    tuned(&mut q, &mut conv);
    write(&paths.1, &q, &conv);
    (folder, paths.0, paths.1)
}

fn rank(adapter: &Adapter<'_>, name: &str) -> i64 {
    adapter.find_module(&format!("unet.{name}")).unwrap().rank
}

#[test]
fn the_difference() {
    let (_, base, tuned) = pair("the_difference");
    let options = ExtractOptions { dtype: Some(Dtype::F32), ..Default::default() };
    let context = Context::new().unwrap();
    let rule = Some(RankRule::Fixed(2));
    let (adapter, report) = Adapter::extract(&context, &base, &tuned, rule, &options).unwrap();
    drop(context);
    assert_eq!(rank(&adapter, Q), 2);
    let change = adapter.find_module(&format!("unet.{Q}")).unwrap().delta::<f64>(1.0).unwrap();
    for (i, got) in change.iter().enumerate() {
        let want = match i {
            0 => 4.0,
            9 => 2.0,
            _ => 0.0,
        };
        // Two factors up to 2, rounded to F32.
        assert!((got - want).abs() < 8.0 / f64::from(1 << 23), "{i}: {got}");
    }
    let layer = report.layers().find(|layer| layer.name == Q).unwrap();
    assert_eq!((layer.rank_in, layer.rank_out), (6, 2));
    assert!((layer.energy - 20.0 / 21.0).abs() < 1e-6, "{}", layer.energy);
    assert!((layer.error - 1.0).abs() < 1e-6, "{}", layer.error);
    assert!((layer.largest - 4.0).abs() < 1e-6 && (layer.least - 2.0).abs() < 1e-6);
}

#[test]
fn rules_and_options() {
    let (_, base, tuned) = pair("rules_and_options");
    let context = Context::new().unwrap();
    let ranks = |rule, options: &ExtractOptions| {
        let (adapter, _) = Adapter::extract(&context, &base, &tuned, rule, options).unwrap();
        rank(&adapter, Q)
    };
    let plain = ExtractOptions::default();
    assert_eq!(ranks(None, &plain), 3);
    assert_eq!(ranks(Some(RankRule::Fixed(1)), &plain), 1);
    assert_eq!(ranks(Some(RankRule::Energy(0.8)), &plain), 2); // of 16, 4, 1
    assert_eq!(ranks(Some(RankRule::Knee), &ExtractOptions { max_rank: Some(1), ..plain }), 1);
    let options = ExtractOptions {
        overrides: vec![("*".into(), RankRule::Fixed(1)), ("*to_q".into(), RankRule::Fixed(2))],
        conv_rule: Some(RankRule::Fixed(1)),
        min_rank: Some(1),
        exclude: vec!["*conv1".into()],
        seed: 3,
        clamp: Some(1.0),
        exact: true,
        counting: Counting::Kohya,
        split: Split::Up,
        ..Default::default()
    };
    assert_eq!(ranks(Some(RankRule::Fixed(3)), &options), 2);
    let options = ExtractOptions {
        kind: ExtractKind::Lora,
        include: vec!["*".into()],
        dialect: Some("kohya".into()),
        ..Default::default()
    };
    let rule = Some(RankRule::Fixed(1));
    let (adapter, report) = Adapter::extract(&context, &base, &tuned, rule, &options).unwrap();
    let names: Vec<_> = adapter.modules().map(|module| module.name).collect();
    assert_eq!(names, [format!("lora_unet_{}", Q.replace('.', "_"))]);
    assert_eq!(report.problems().next().unwrap().code, "left_out"); // the convolution
}

#[test]
fn resumed() {
    let (folder, base, tuned) = pair("resumed");
    let journal = folder.join("journal");
    let mut options = ExtractOptions { journal: Some(journal.clone()), ..Default::default() };
    let rule = Some(RankRule::Fixed(1));
    let stopping =
        Context::builder().threads(1).progress(|_, _, _| ControlFlow::Break(())).build().unwrap();
    let error = Adapter::extract(&stopping, &base, &tuned, rule, &options).err().unwrap();
    assert_eq!(error.status, Status::Cancelled);
    assert!(journal.exists());

    let left = Arc::new(AtomicU64::new(0));
    let seen = left.clone();
    let context = Context::builder()
        .progress(move |stage, _, total| {
            assert!(stage == "extract" || stage == "save");
            seen.fetch_max(total, Ordering::Relaxed);
            ControlFlow::Continue(())
        })
        .build()
        .unwrap();
    options.resume = true;
    let (adapter, _) = Adapter::extract(&context, &base, &tuned, rule, &options).unwrap();
    assert_eq!(left.load(Ordering::Relaxed), 1);
    let plain = ExtractOptions::default();
    let (whole, _) = Adapter::extract(&context, &base, &tuned, rule, &plain).unwrap();
    assert_eq!(adapter.to_vec().unwrap(), whole.to_vec().unwrap());

    let other = Some(RankRule::Fixed(2));
    let error = Adapter::extract(&context, &base, &tuned, other, &options).err().unwrap();
    assert_eq!(error.status, Status::State);
}

#[test]
fn refused() {
    let (folder, base, tuned) = pair("refused");
    let context = Context::new().unwrap();
    let refusal = |tuned: &Path, options: &ExtractOptions| {
        let rule = Some(RankRule::Fixed(1));
        Adapter::extract(&context, &base, tuned, rule, options).err().unwrap()
    };
    let plain = ExtractOptions::default();
    assert_eq!(refusal(&base, &plain).status, Status::Key);
    assert_eq!(refusal(&folder.join("none"), &plain).status, Status::Io);
    let options = ExtractOptions { dialect: Some("a\0b".into()), ..plain.clone() };
    assert_eq!(refusal(&tuned, &options).status, Status::Argument);
    let options = ExtractOptions { resume: true, ..plain.clone() };
    assert_eq!(refusal(&tuned, &options).status, Status::Argument);

    let bad = folder.join("bad.safetensors");
    let (q, mut conv) = ([0.5; 48], [0.25; 72]);
    conv[7] = f32::NAN;
    conv[8] = 1.0;
    write(&bad, &q, &conv);
    let error = refusal(&bad, &plain);
    assert_eq!((error.status, &*error.subject), (Status::NonFinite, &*format!("{CONV}.weight")));
    let options = ExtractOptions { skip_bad: true, skip_shapes: true, ..plain };
    assert_eq!(refusal(&bad, &options).status, Status::Key); // nothing else changed
}
