//! Opening, looking inside, computing, saving, errors.

mod common;

use common::{adapter, folder, safetensors, with_header, K, Q};
use liblora::{
    edit_metadata, hash_file, Adapter, Builder, Context, ConvertOptions, Counting, DeltaOptions,
    Details, Dtype, EditOptions, OpenOptions, Part, RankRule, ResizeOptions, Severity, Split,
    Status, Strength,
};

fn context() -> Context {
    Context::new().unwrap()
}

#[test]
fn what_is_inside() {
    let data = adapter();
    let adapter = OpenOptions::new().memory(&context(), &data).unwrap();
    let info = adapter.info().unwrap();
    assert_eq!((info.container, info.bytes), ("safetensors", data.len() as u64));
    assert_eq!((info.parameters, info.unknown_count), (22, 0));

    let names: Vec<_> = adapter.modules().map(|module| module.name).collect();
    assert_eq!(names, [Q, K]);
    let q = adapter.find_module(Q).unwrap();
    assert_eq!((q.index, q.kind, q.dialect, q.rank), (0, "lora", "kohya", 2));
    assert_eq!((q.alpha, q.scale, &q.shape[..]), (Some(1.0), 0.5, &[2, 3][..]));
    assert_eq!((q.dtype, q.dora, q.tucker, q.status), (Dtype::F32, false, false, None));
    assert!(q.changes_weight && !q.changes_bias);
    let target = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
    assert_eq!(q.target, target);
    assert_eq!(adapter.find_module(target).unwrap().index, 0);

    assert_eq!(adapter.tensor_count(), 6);
    let up = adapter.tensors().find(|t| t.module == Some(1) && t.role == "up").unwrap();
    assert_eq!((up.name, &up.shape[..]), (&*format!("{K}.lora_up.weight"), &[2, 2][..]));
    assert_eq!(up.read::<f64>().unwrap(), [3.0, 0.0, 0.0, 1.0]);
    let stored: Vec<u8> = [3f32, 0.0, 0.0, 1.0].iter().flat_map(|n| n.to_le_bytes()).collect();
    assert_eq!(up.bytes().unwrap(), stored);
    assert_eq!(up.view().unwrap(), stored);
    assert!(data.as_ptr_range().contains(&up.view().unwrap().as_ptr()), "the view is no copy");

    let metadata: Vec<_> = adapter.metadata().collect();
    assert_eq!(metadata, [("note", "by hand"), ("ss_output_name", "tiny")]);
    assert_eq!(adapter.metadata_value("note"), Some("by hand"));
    assert_eq!(adapter.metadata_value("absent"), None);
}

#[test]
fn changes_of_weights() {
    let data = adapter();
    let adapter = OpenOptions::new().memory(&context(), &data).unwrap();
    let (q, k) = (adapter.find_module(Q).unwrap(), adapter.find_module(K).unwrap());
    assert_eq!(q.delta::<f32>(1.0).unwrap(), [0.5, 1.0, 0.0, 1.5, 2.0, 1.0]);
    assert_eq!(q.delta::<f64>(-2.0).unwrap(), [-1.0, -2.0, 0.0, -3.0, -4.0, -2.0]);
    assert_eq!(k.delta::<f32>(1.0).unwrap(), [3.0, 0.0, 0.0, 0.0, 1.0, 0.0]);

    let mut row = [0f32; 3];
    q.delta_rows(&mut row, Part::Weight, 1.0, 1..2).unwrap();
    assert_eq!(row, [1.5, 2.0, 1.0]);
    let error = q.delta_rows(&mut row, Part::Weight, 1.0, 1..3).unwrap_err();
    assert_eq!(error.status, Status::Range);
    assert_eq!(q.bias_delta::<f32>(1.0).unwrap_err().status, Status::Unsupported);

    let factors = q.factors::<f32>().unwrap();
    assert_eq!((factors.rows, factors.cols, factors.rank, factors.scale), (2, 3, 2, 0.5));
    assert_eq!(factors.up, [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(factors.down, [1.0, 0.0, 2.0, 0.0, 1.0, -1.0]);
}

/// The rounding of two factors to f32, of numbers up to 3.
const NEAR: f64 = 3.0 * 3.0 / (1 << 24) as f64;

#[test]
fn ranks() {
    let data = adapter();
    let adapter = OpenOptions::new().memory(&context(), &data).unwrap();
    // q keeps its bytes; k = diag(3, 1) keeps its larger direction.
    let options = ResizeOptions {
        overrides: vec![("*attn1_to_q".into(), RankRule::Fixed(2))],
        ..Default::default()
    };
    let (small, report) = adapter.resize(RankRule::Fixed(1), &options).unwrap();
    drop(adapter);
    let rank = |name| small.find_module(name).unwrap().rank;
    assert_eq!((rank(Q), rank(K)), (2, 1));
    let change = small.find_module(K).unwrap().delta::<f64>(1.0).unwrap();
    for (got, want) in change.iter().zip([3.0, 0.0, 0.0, 0.0, 0.0, 0.0]) {
        assert!((got - want).abs() <= NEAR, "{change:?}");
    }
    let layer = report.layers().find(|layer| layer.name == K).unwrap();
    assert_eq!((layer.rank_in, layer.rank_out), (2, 1));
    assert!((layer.sigma[0] - 3.0).abs() < 1e-12 && (layer.sigma[1] - 1.0).abs() < 1e-12);
    assert!((layer.energy - 0.9).abs() < 1e-12, "9 / (9 + 1): {}", layer.energy);
    assert!((layer.error - 1.0).abs() <= NEAR && (layer.spectral - 1.0).abs() < 1e-12);
    assert_eq!((layer.frobenius, layer.largest), (layer.energy.sqrt(), layer.sigma[0]));
    assert_eq!(layer.least, layer.sigma[0]);
    assert!((layer.stable_rank - 10.0 / 9.0).abs() < 1e-12);
    assert!((layer.effective_rank - 1.754_765_350_603_32).abs() < 1e-12); // of 3/4, 1/4
    assert!(report.to_json().starts_with('{') && report.to_json().contains(K));
}

#[test]
fn rank_rules() {
    let data = adapter();
    let adapter = OpenOptions::new().memory(&context(), &data).unwrap();
    // Of k, with the singular values 3 and 1.
    let cases = [
        (RankRule::Energy(0.89), 1),
        (RankRule::Energy(0.91), 2),
        (RankRule::Ratio(2.9), 1),
        (RankRule::Ratio(3.1), 2),
        (RankRule::Threshold(1.1), 1),
        (RankRule::Threshold(0.9), 2),
        (RankRule::Cumulative(0.74), 1),
        (RankRule::Cumulative(0.76), 2),
        (RankRule::Effective, 2), // exp(0.562) = 1.75
        (RankRule::Knee, 2),      // two points have no bend
    ];
    let spectra = adapter.clone().spectra().unwrap();
    for (rule, rank) in cases {
        let (small, _) = adapter.resize(rule, &Default::default()).unwrap();
        assert_eq!(small.find_module(K).unwrap().rank, rank, "{rule:?}");
        let (same, _) = spectra.resize(rule, &Default::default()).unwrap();
        assert_eq!(same.to_vec().unwrap(), small.to_vec().unwrap(), "{rule:?}");
    }
    let whole = adapter.to_vec().unwrap().len() as u64;
    let (small, _) = spectra.resize(RankRule::Size(whole - 1), &Default::default()).unwrap();
    assert!((small.to_vec().unwrap().len() as u64) < whole);
    let error = spectra.resize(RankRule::Size(9), &Default::default()).err().unwrap();
    assert_eq!(error.status, Status::Range);
    // Two directions of six values, and kohya's one more: of zeros.
    let options =
        ResizeOptions { counting: Counting::Kohya, split: Split::Up, ..Default::default() };
    let (small, _) = adapter.resize(RankRule::Energy(0.89), &options).unwrap();
    assert_eq!(small.find_module(K).unwrap().rank, 2);
    let error = adapter.resize(RankRule::Fixed(0), &Default::default()).err().unwrap();
    assert_eq!(error.status, Status::Range);
}

#[test]
fn names_and_types() {
    let data = adapter();
    let adapter = OpenOptions::new().memory(&context(), &data).unwrap();
    let options = ConvertOptions {
        dialect: Some("diffusers".into()),
        family: Some("sd15".into()),
        dtype: Some(Dtype::F16),
        ..Default::default()
    };
    let other = adapter.convert(&options).unwrap();
    let q = other.find_module(adapter.find_module(Q).unwrap().target).unwrap();
    assert_eq!((q.dialect, q.dtype), ("diffusers", Dtype::F16));
    // All of these numbers are halves, which F16 holds.
    assert_eq!(q.delta::<f32>(1.0).unwrap(), [0.5, 1.0, 0.0, 1.5, 2.0, 1.0]);
    let wrong = ConvertOptions { dialect: Some("no such".into()), ..Default::default() };
    let (lokr, lost) = adapter.to_lokr(Some(2), None, None).unwrap();
    assert!(lokr.modules().all(|module| module.kind == "lokr"));
    assert!(lost.to_json().contains("\"energy\""));
    let error = adapter.convert(&wrong).err().unwrap();
    assert_eq!(error.status, Status::Argument);
    let weaker = ConvertOptions {
        strength: Some(Strength { model: -2.0, text_encoder: 1.0 }),
        drops: vec!["*attn1_to_k".into()],
        ..Default::default()
    };
    let weaker = adapter.convert(&weaker).unwrap();
    assert!(weaker.find_module(K).is_err());
    let change = weaker.find_module(Q).unwrap().delta::<f32>(1.0).unwrap();
    assert_eq!(change, [-1.0, -2.0, 0.0, -3.0, -4.0, -2.0]);
    let nothing = ConvertOptions { drops: vec!["no such".into()], ..Default::default() };
    assert_eq!(adapter.convert(&nothing).err().unwrap().status, Status::Key);
    let zero = ConvertOptions { dialect: Some("a\0b".into()), ..Default::default() };
    assert_eq!(adapter.convert(&zero).err().unwrap().status, Status::Argument);
}

#[test]
fn round_trips() {
    let folder = folder("round_trips");
    let data = adapter();
    let context = context();
    let path = folder.join("saved.safetensors");
    let first = OpenOptions::new().memory(&context, &data).unwrap();
    first.save(&path).unwrap();
    let error = first.save(&path).unwrap_err();
    assert_eq!((error.status, error.os_error), (Status::Io, 17), "EEXIST");
    first.save_over(&path).unwrap();

    let second = Adapter::open(&context, &path).unwrap();
    let bytes = second.to_vec().unwrap();
    assert_eq!(bytes, std::fs::read(&path).unwrap());
    assert_eq!(second.find_module(Q).unwrap().delta::<f32>(2.0).unwrap()[3..], [3.0, 4.0, 2.0]);
    // A file that is neither mapped nor in memory has no views.
    assert_eq!(second.tensor(0).unwrap().view().unwrap_err().status, Status::State);
    // SAFETY: nobody else knows this file.
    let mapped = unsafe { OpenOptions::new().map() }.open(&context, &path).unwrap();
    let tensor = mapped.tensor(0).unwrap();
    let offset = tensor.offset as usize;
    assert_eq!(tensor.view().unwrap(), &bytes[offset..offset + tensor.bytes as usize]);

    let dense = folder.join("dense.safetensors");
    second.save_delta(&dense, 1.0, &DeltaOptions::default()).unwrap();
    let dense = Adapter::open(&context, &dense).unwrap();
    let names: Vec<_> = dense.tensors().map(|t| t.name.to_owned()).collect();
    assert_eq!(names.len(), 2);
    let of_k = dense.tensors().find(|t| t.name.starts_with(K)).unwrap();
    assert_eq!(of_k.read::<f32>().unwrap(), [3.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn building() {
    let data = adapter();
    let context = context();
    let source = OpenOptions::new().memory(&context, &data).unwrap();
    let mut builder = Builder::from_adapter(&source).unwrap();
    drop(source);
    let numbers: Vec<u8> = [4f32].iter().flat_map(|n| n.to_le_bytes()).collect();
    let alpha = format!("{K}.alpha");
    builder.remove_tensor(&alpha).unwrap();
    builder.add_tensor(&alpha, Dtype::F32, &[], &numbers).unwrap();
    builder.set_metadata("note", None).unwrap().set_metadata("new", Some("ü")).unwrap();
    let error = builder.add_tensor(&alpha, Dtype::F32, &[], &numbers).err().unwrap();
    assert_eq!((error.status, error.subject), (Status::Duplicate, alpha.clone()));
    let error = builder.add_tensor("x", Dtype::F32, &[1; 9], &numbers).err().unwrap();
    assert_eq!(error.status, Status::Shape);
    let made = builder.finish().unwrap();
    // alpha / rank = 2 instead of 1.
    assert_eq!(made.find_module(K).unwrap().delta::<f32>(1.0).unwrap()[..2], [6.0, 0.0]);
    assert_eq!(made.metadata_value("new"), Some("ü"));
    assert_eq!(made.metadata_value("note"), None);
    assert_eq!(made.info().unwrap().container, "memory");
}

#[test]
fn problems() {
    let up = format!("{Q}.lora_up.weight");
    let data = safetensors(&[(&up, &[2, 2], &[1.0, f32::NAN, 3.0, 4.0])], &[]);
    let adapter = OpenOptions::new().memory(&context(), &data).unwrap();
    let module = adapter.find_module(Q).unwrap();
    assert_eq!(module.status, Some(Status::Key));
    assert_eq!(module.delta::<f32>(1.0).unwrap_err().status, Status::Key);
    let details = Details { modules: true, hashes: true };
    let report = adapter.describe(details).unwrap();
    let problem = report.problems().find(|p| p.code == "missing_pair").unwrap();
    assert_eq!((problem.severity, problem.status), (Severity::Error, Some(Status::Key)));
    assert!(report.to_json().contains("\"hashes\""));
    let report = adapter.check(None).unwrap();
    assert!(report.problems().count() > 1, "NaN too: {}", report.to_json());
    assert_eq!(report.layers().count(), 0);
}

#[test]
fn repairs() {
    let spoiled = Q.replace("lora_unet_", "lora_unet_unet_");
    let (down, up) = (format!("{spoiled}_lora_down.weight"), format!("{spoiled}_lora_up.weight"));
    let data = safetensors(&[(&down, &[1, 2], &[1.0, 2.0]), (&up, &[2, 1], &[3.0, 4.0])], &[]);
    let adapter = OpenOptions::new().memory(&context(), &data).unwrap();
    let (fixed, report) = adapter.fix(None, false).unwrap();
    assert!(report.fixes().count() > 0, "{}", report.to_json());
    let change = fixed.find_module(Q).unwrap().delta::<f32>(1.0).unwrap();
    assert_eq!(change[..], [3.0, 6.0, 4.0, 8.0]);
    assert_eq!(fixed.fix(None, false).unwrap().1.fixes().count(), 0);
}

#[test]
fn peft_folder() {
    let data = safetensors(
        &[
            ("base_model.model.a.lora_A.weight", &[1, 2], &[1.0, 2.0]),
            ("base_model.model.a.lora_B.weight", &[2, 1], &[3.0, 4.0]),
        ],
        &[],
    );
    let context = context();
    let adapter = OpenOptions::new().memory(&context, &data).unwrap();
    let folder = folder("peft_folder").join("made");
    adapter.save_peft(&folder, false).unwrap();
    assert_eq!(adapter.save_peft(&folder, false).unwrap_err().status, Status::Io);
    adapter.save_peft(&folder, true).unwrap();
    assert!(folder.join("adapter_config.json").exists());
    let back = Adapter::open(&context, &folder).unwrap();
    let change = back.find_module("base_model.model.a").unwrap().delta::<f32>(1.0).unwrap();
    assert_eq!(change[..], [3.0, 6.0, 4.0, 8.0]);
}

#[test]
fn bad_files() {
    let context = context();
    let open = |data: &[u8]| {
        let error = OpenOptions::new().memory(&context, data).err().unwrap();
        assert!(!error.message.is_empty());
        (error.status, error.offset)
    };
    // The brace where a value should be: 8 bytes of length, 5 of header.
    assert_eq!(open(&with_header("{\"a\":}", &[])), (Status::Format, Some(13)));
    let good = adapter();
    assert_eq!(open(&good[..good.len() - 1]).0, Status::Truncated);
    assert_eq!(open(&good[..100]).0, Status::Truncated);

    let path = folder("bad_files").join("absent.safetensors");
    let error = Adapter::open(&context, &path).err().unwrap();
    assert_eq!((error.status, error.offset, error.os_error), (Status::Io, None, 2), "ENOENT");
    assert!(error.subject.ends_with("absent.safetensors"));
    assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}");

    let limited = Context::builder().header_limit(64).build().unwrap();
    let error = OpenOptions::new().memory(&limited, &good).err().unwrap();
    assert_eq!(error.status, Status::Limit);
}

/// A change may be larger than any memory: 2^44 elements of 8 bytes.
#[test]
fn absurd_sizes() {
    let count = 1 << 22;
    let zeros = vec![0.0; count as usize];
    let (up, down) = (format!("{Q}.lora_up.weight"), format!("{Q}.lora_down.weight"));
    let data = safetensors(&[(&down, &[1, count], &zeros), (&up, &[count, 1], &zeros)], &[]);
    let adapter = OpenOptions::new().memory(&context(), &data).unwrap();
    let error = adapter.find_module(Q).unwrap().delta::<f64>(1.0).unwrap_err();
    assert_eq!(error.status, Status::Memory);
}

#[test]
fn whole_files() {
    let folder = folder("whole_files");
    let path = folder.join("a.safetensors");
    let context = context();
    std::fs::write(&path, b"abc").unwrap();
    assert_eq!(hash_file(&context, &path).err().unwrap().status, Status::Truncated);
    std::fs::write(&path, adapter()).unwrap();
    let before = hash_file(&context, &path).unwrap();
    assert_eq!(before.auto_v2, before.sha256[..10]);

    let changes = [("note", None), ("author", Some("me"))];
    let dry = EditOptions { dry_run: true, ..Default::default() };
    edit_metadata(&context, &path, &changes, &dry).unwrap();
    assert_eq!(hash_file(&context, &path).unwrap(), before);
    let done = edit_metadata(&context, &path, &changes, &EditOptions::default()).unwrap();
    assert_eq!((done.added, done.removed, done.replaced), (1, 1, 0));
    let after = hash_file(&context, &path).unwrap();
    assert_ne!(after.sha256, before.sha256);
    assert_eq!(after.content_id, before.content_id);
    let adapter = Adapter::open(&context, &path).unwrap();
    let metadata: Vec<_> = adapter.metadata().collect();
    assert_eq!(metadata, [("author", "me"), ("ss_output_name", "tiny")]);
}
