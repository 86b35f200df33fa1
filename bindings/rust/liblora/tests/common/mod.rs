//! Safetensors files written by hand, and where to put them.

use std::path::PathBuf;

/// A folder of its own for each test.
#[allow(dead_code)]
pub fn folder(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Tensors of f32 in a file: the length of the header, the header, the data.
pub fn safetensors(tensors: &[(&str, &[i64], &[f32])], metadata: &[(&str, &str)]) -> Vec<u8> {
    let pairs: Vec<_> = metadata.iter().map(|(k, v)| format!("{k:?}:{v:?}")).collect();
    let mut entries = vec![format!("\"__metadata__\":{{{}}}", pairs.join(","))];
    let mut data = Vec::new();
    for (name, shape, numbers) in tensors {
        let begin = data.len();
        data.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        entries.push(format!(
            "{name:?}:{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[{begin},{}]}}",
            data.len()
        ));
    }
    with_header(&format!("{{{}}}", entries.join(",")), &data)
}

pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

pub const Q: &str = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
pub const K: &str = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k";

/// Two modules of rank 2. Their changes are, by hand,
///
///     q: 1/2 [1 2] [1 0  2]  =  [0.5 1 0]      k: [3 0] [1 0 0] = [3 0 0]
///            [3 4] [0 1 -1]     [1.5 2 1]         [0 1] [0 1 0]   [0 1 0]
///
/// with the scale alpha / rank: 1/2 and 2/2.
pub fn adapter() -> Vec<u8> {
    let name = |module: &str, part: &str| format!("{module}.{part}");
    let (q_down, k_down) = (name(Q, "lora_down.weight"), name(K, "lora_down.weight"));
    let (q_up, k_up) = (name(Q, "lora_up.weight"), name(K, "lora_up.weight"));
    let (q_alpha, k_alpha) = (name(Q, "alpha"), name(K, "alpha"));
    safetensors(
        &[
            (&q_down, &[2, 3], &[1.0, 0.0, 2.0, 0.0, 1.0, -1.0]),
            (&q_up, &[2, 2], &[1.0, 2.0, 3.0, 4.0]),
            (&q_alpha, &[], &[1.0]),
            (&k_down, &[2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
            (&k_up, &[2, 2], &[3.0, 0.0, 0.0, 1.0]),
            (&k_alpha, &[], &[2.0]),
        ],
        &[("ss_output_name", "tiny"), ("note", "by hand")],
    )
}
