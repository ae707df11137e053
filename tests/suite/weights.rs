//! Checkpoints: layouts, dtypes, names of older releases, and errors that name the file and the tensor.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use stablehand::weights::Checkpoint;
use tempfile::TempDir;

/// An empty checkpoint directory.
fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model_index.json"), "{}").unwrap();
    for folder in ["unet", "vae", "text_encoder"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
    }
    dir
}

fn bytes_of(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::I64 => values.iter().flat_map(|v| (*v as i64).to_le_bytes()).collect(),
        other => panic!("{other:?}"),
    }
}

pub fn save(path: &Path, dtype: Dtype, tensors: &[(&str, &[usize], &[f32])]) {
    let data: Vec<Vec<u8>> = tensors.iter().map(|(_, _, values)| bytes_of(dtype, values)).collect();
    let views: HashMap<&str, TensorView> = tensors
        .iter()
        .zip(&data)
        .map(|((name, shape, _), data)| (*name, TensorView::new(dtype, shape.to_vec(), data).unwrap()))
        .collect();
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

pub fn values(tensor: Tensor) -> Vec<f32> {
    assert_eq!(tensor.dtype(), DType::F32);
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

const NUMBERS: [f32; 6] = [1.0, -2.5, 0.125, 3.0, 65504.0, -0.0078125];

#[test]
fn every_float_type_becomes_the_one_asked_for() {
    for (dtype, name) in [
        (Dtype::F32, "diffusion_pytorch_model.safetensors"),
        (Dtype::F16, "diffusion_pytorch_model.fp16.safetensors"),
        (Dtype::BF16, "diffusion_pytorch_model.safetensors"),
    ] {
        let dir = directory();
        save(&dir.path().join("unet").join(name), dtype, &[("a.weight", &[2, 3], &NUMBERS)]);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let tensors = checkpoint.tensors("unet", DType::F32, &Device::Cpu).unwrap();
        let expected: Vec<f32> = match dtype {
            Dtype::BF16 => NUMBERS.iter().map(|v| bf16::from_f32(*v).to_f32()).collect(),
            _ => NUMBERS.to_vec(),
        };
        assert_eq!(values(tensors.pp("a").get((2, 3), "weight").unwrap()), expected, "{dtype:?}");
        let half = tensors.set_dtype(DType::BF16).get((2, 3), "a.weight").unwrap();
        assert_eq!(half.dtype(), DType::BF16);
        assert_eq!(values(half.to_dtype(DType::F32).unwrap())[1], -2.5);
    }
}

#[test]
fn full_precision_comes_before_fp16_and_the_text_encoder_has_its_own_name() {
    let dir = directory();
    let folder = dir.path().join("text_encoder");
    save(&folder.join("model.fp16.safetensors"), Dtype::F16, &[("x", &[1], &[1.0])]);
    save(&folder.join("model.safetensors"), Dtype::F32, &[("x", &[1], &[2.0])]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let tensors = checkpoint.tensors("text_encoder", DType::F32, &Device::Cpu).unwrap();
    assert_eq!(values(tensors.get(1, "x").unwrap()), [2.0]);
}

#[test]
fn shards_are_found_by_their_index_in_every_spelling() {
    for (index, shards) in [
        ("diffusion_pytorch_model.safetensors.index.json", ["diffusion_pytorch_model-0000", ".safetensors"]),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", ["diffusion_pytorch_model.fp16-0000", ".safetensors"]),
        ("diffusion_pytorch_model.fp16.safetensors.index.json", ["diffusion_pytorch_model-0000", ".fp16.safetensors"]),
    ] {
        let dir = directory();
        let folder = dir.path().join("unet");
        let shard = |i: usize| format!("{}{i}-of-00002{}", shards[0], shards[1]);
        save(&folder.join(shard(1)), Dtype::F32, &[("a", &[2], &[1.0, 2.0])]);
        save(&folder.join(shard(2)), Dtype::F32, &[("b", &[1], &[3.0])]);
        let map = serde_json::json!({"metadata": {}, "weight_map": {"a": shard(1), "b": shard(2)}});
        fs::write(folder.join(index), map.to_string()).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let tensors = checkpoint.tensors("unet", DType::F32, &Device::Cpu).unwrap();
        assert_eq!(values(tensors.get(2, "a").unwrap()), [1.0, 2.0], "{index}");
        assert_eq!(values(tensors.get(1, "b").unwrap()), [3.0], "{index}");

        fs::remove_file(folder.join(shard(2))).unwrap();
        let error = checkpoint.tensors("unet", DType::F32, &Device::Cpu).err().unwrap().to_string();
        assert!(error.contains(&shard(2)), "{error}");
    }
}

#[test]
fn an_index_cannot_lead_out_of_its_folder() {
    let dir = directory();
    save(&dir.path().join("secret.safetensors"), Dtype::F32, &[("a", &[1], &[1.0])]);
    let map = serde_json::json!({"weight_map": {"a": "../secret.safetensors"}});
    fs::write(dir.path().join("unet/diffusion_pytorch_model.safetensors.index.json"), map.to_string()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let error = checkpoint.tensors("unet", DType::F32, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("secret") && error.contains("tensor a"), "{error}");
}

#[test]
fn names_of_older_releases_load() {
    let dir = directory();
    let attention = "encoder.mid_block.attentions.0";
    let old: Vec<String> = ["query", "key", "value", "proj_attn"].map(|n| format!("{attention}.{n}.weight")).into();
    let tensors: Vec<(&str, &[usize], &[f32])> =
        old.iter().zip([&[0.0f32], &[1.0], &[2.0], &[3.0]]).map(|(n, v)| (n.as_str(), &[1][..], &v[..])).collect();
    save(&dir.path().join("vae/diffusion_pytorch_model.safetensors"), Dtype::F32, &tensors);
    let text = [("text_model.final_layer_norm.bias", &[1][..], &[7.0f32][..]), ("bare.bias", &[1], &[8.0])];
    save(&dir.path().join("text_encoder/model.safetensors"), Dtype::F32, &text);

    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let vae = checkpoint.tensors("vae", DType::F32, &Device::Cpu).unwrap().pp(attention);
    for (i, name) in ["to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"].into_iter().enumerate() {
        assert!(vae.contains_tensor(name));
        assert_eq!(values(vae.get(1, name).unwrap()), [i as f32], "{name}");
    }
    let text = checkpoint.tensors("text_encoder", DType::F32, &Device::Cpu).unwrap();
    assert_eq!(values(text.get(1, "final_layer_norm.bias").unwrap()), [7.0]);
    assert_eq!(values(text.get(1, "text_model.final_layer_norm.bias").unwrap()), [7.0]);
    assert_eq!(values(text.get(1, "text_model.bare.bias").unwrap()), [8.0]);
}

#[test]
fn pickles_are_refused_by_name() {
    for name in ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin", "model.ckpt", "pytorch_model.pt"] {
        let dir = directory();
        fs::write(dir.path().join("unet").join(name), "not looked at").unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let error = checkpoint.tensors("unet", DType::F32, &Device::Cpu).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains("safe_serialization"), "{error}");
    }
}

#[test]
fn what_is_wrong_with_a_tensor_is_said_with_its_file() {
    let dir = directory();
    let path = dir.path().join("unet/diffusion_pytorch_model.safetensors");
    save(&path, Dtype::F32, &[("conv_in.weight", &[2, 3], &NUMBERS)]);
    save(&dir.path().join("vae/diffusion_pytorch_model.safetensors"), Dtype::I64, &[("ids", &[2], &[1.0, 2.0])]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let unet = checkpoint.tensors("unet", DType::F32, &Device::Cpu).unwrap();
    let shown = path.display().to_string();

    let missing = unet.pp("conv_out").get(2, "weight").unwrap_err().to_string();
    assert!(missing.contains(&shown) && missing.contains("tensor conv_out.weight is missing"), "{missing}");

    let shape = unet.get((3, 2), "conv_in.weight").unwrap_err().to_string();
    assert!(shape.contains(&shown) && shape.contains("has shape [2, 3], expected [3, 2]"), "{shape}");

    let vae = checkpoint.tensors("vae", DType::F32, &Device::Cpu).unwrap();
    let dtype = vae.get(2, "ids").unwrap_err().to_string();
    assert!(dtype.contains("tensor ids") && dtype.contains("I64"), "{dtype}");
}

/// Every length that a download can break off at: an error that names the file, never a panic, and the tensor once the
/// header is complete.
#[test]
fn truncated_and_corrupt_files_are_errors() {
    let dir = directory();
    let path = dir.path().join("unet/diffusion_pytorch_model.safetensors");
    save(&path, Dtype::F32, &[("first", &[2, 3], &NUMBERS), ("second", &[2, 3], &NUMBERS)]);
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let open = || checkpoint.tensors("unet", DType::F32, &Device::Cpu);
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = open().err().unwrap().to_string();
        assert!(error.contains("diffusion_pytorch_model.safetensors"), "{error}");
        if length >= header {
            let (cut, missing) = (if length < header + 24 { "first" } else { "second" }, whole.len() - length);
            assert!(error.contains(&format!("inside tensor {cut}: {missing} bytes")), "{length}: {error}");
        }
    }
    for (at, byte) in [(0, 0xff), (7, 0x7f), (9, b'x'), (20, 0xff), (header - 8, b'9')] {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        fs::write(&path, &bytes).unwrap();
        if let Ok(tensors) = open() {
            let _ = tensors.get((2, 3), "first");
        }
    }
    fs::write(&path, [whole.as_slice(), b"more"].concat()).unwrap();
    assert!(open().err().unwrap().to_string().contains("more bytes than its header"));
}

#[test]
fn what_is_no_checkpoint_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();
    assert!(error(dir.path()).contains("no model_index.json"));
    assert!(error(&dir.path().join("nowhere")).contains("no such checkpoint directory"));
    let file = dir.path().join("v1-5-pruned.safetensors");
    fs::write(&file, "").unwrap();
    assert!(error(&file).contains("single-file checkpoint"));

    fs::write(dir.path().join("model_index.json"), "{}").unwrap();
    fs::write(dir.path().join("broken.json"), "{").unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let json = |path: &str| checkpoint.json::<serde_json::Value>(path).unwrap_err().to_string();
    assert!(json("unet/config.json").contains("unet/config.json"));
    assert!(json("broken.json").contains("broken.json"));
    let weights = checkpoint.tensors("unet", DType::F32, &Device::Cpu).err().unwrap().to_string();
    assert!(weights.contains("no safetensors weights"), "{weights}");
}

/// The embedded files are those of the directory, and each part's weights can be read.
#[test]
fn the_built_in_model_is_the_one_in_the_repository() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/stablehand-shapes");
    let (builtin, directory) = (Checkpoint::builtin(), Checkpoint::open(&dir).unwrap());
    for path in ["model_index.json", "tokenizer/merges.txt", "unet/diffusion_pytorch_model.safetensors"] {
        assert_eq!(builtin.bytes(path).unwrap(), directory.bytes(path).unwrap(), "{path}");
    }
    for (part, tensor) in [("unet", "conv_in.bias"), ("vae", "decoder.conv_in.bias")] {
        let read =
            |c: &Checkpoint| values(c.tensors(part, DType::F32, &Device::Cpu).unwrap().get_unchecked(tensor).unwrap());
        let numbers = read(&builtin);
        assert!(!numbers.is_empty() && numbers == read(&directory));
    }
}
