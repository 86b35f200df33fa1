//! Light-LoRA: draws, and each operation once.

mod common;

use common::adapter;
use liblora::{
    draw_matrix, Adapter, Context, Draw, Init, LightOptions, OpenOptions, Recipe, Status,
};

#[test]
fn draws() {
    let context = Context::new().unwrap();
    let first = Draw { rows: 2, cols: 7, init: Init::Orthogonal(1.0) };
    let then = Draw { rows: 4, cols: 1, init: Init::Normal(2.0) };
    let rows = draw_matrix(&context, 5, &[first]).unwrap();
    let dot =
        |i: usize, j: usize| -> f32 { (0..7).map(|k| rows[i * 7 + k] * rows[j * 7 + k]).sum() };
    assert!((dot(0, 0) - 1.0).abs() < 1e-6 && dot(0, 1).abs() < 1e-6);
    let after = draw_matrix(&context, 5, &[first, then]).unwrap();
    assert_eq!(after.len(), 4);
    assert_ne!(after, draw_matrix(&context, 5, &[then]).unwrap());
    // torch.manual_seed(1234); torch.randn(3)
    let numbers =
        draw_matrix(&context, 1234, &[Draw { rows: 1, cols: 3, init: Init::Normal(1.0) }]).unwrap();
    for (got, want) in numbers.iter().zip([0.0461304635, 0.402402818, -1.01152909]) {
        assert!((f64::from(*got) - want).abs() < 1e-6);
    }
    let none = draw_matrix(&context, 5, &[]).unwrap_err();
    assert_eq!(none.status, Status::Argument);
    let wrong = Draw { rows: -1, ..first };
    assert_eq!(draw_matrix(&context, 5, &[wrong]).unwrap_err().status, Status::Shape);
}

#[test]
fn operations() {
    let context = Context::new().unwrap();
    let data = adapter();
    let adapter = OpenOptions::new().memory(&context, &data).unwrap();
    let recipe = Recipe {
        draws: Some("down_aux:normal,up_aux".into()),
        down_size: 2,
        up_size: 1,
        shapes: vec![("*".into(), 2, 3)],
        ..Default::default()
    };
    let store = LightOptions { store: true, ..Default::default() };
    let (small, report) = adapter.light_compress(&recipe, &store).unwrap();
    assert!(report.to_json().contains("\"energy\""));
    let same = small.light_verify(None).unwrap();
    assert_eq!(same.problems().count(), 0);
    let other = Recipe { seed: 1, ..recipe.clone() };
    assert_ne!(small.light_verify(Some(&other)).unwrap().problems().count(), 0);
    let plain = small.light_expand(None, &Default::default()).unwrap();
    let kinds: Vec<_> = plain.modules().map(|module| module.kind.to_owned()).collect();
    assert_eq!(kinds, ["lora", "lora"]);

    let created = Adapter::light_create(
        &context,
        &Recipe { family: Some("nobody".into()), ..Default::default() },
        &Default::default(),
    );
    assert_eq!(created.err().unwrap().status, Status::Argument);
    let both = LightOptions { variant: 3, ..Default::default() };
    let sd15 = Recipe { family: Some("sd15".into()), ..Default::default() };
    assert_eq!(Adapter::light_create(&context, &sd15, &both).err().unwrap().status, Status::Option);
}
