//! The text encoder against transformers on random tiny models (`tests/parity/text_encoder.py`), its rows against each
//! other, and its errors.

use std::collections::HashMap;
use std::fs;

use candle_core::{DType, Device, Tensor};
use stablehand::diffusion::text::{ClipTextConfig, ClipTextModel, ClipTokenizer, TextOutput};
use stablehand::weights::Checkpoint;

use crate::golden::{Golden, relative_error, values};

const CASES: [&str; 4] = ["sd1", "sd2", "bigg", "rare"];

/// Loads the golden's weights out of a checkpoint directory, their names changed by `rename`.
fn load(golden: &Golden, rename: impl Fn(&str) -> String) -> candle_core::Result<ClipTextModel> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model_index.json"), "{}").unwrap();
    fs::create_dir(dir.path().join("text_encoder")).unwrap();
    let weights: HashMap<String, Tensor> = golden.weights.iter().map(|(k, v)| (rename(k), v.clone())).collect();
    candle_core::safetensors::save(&weights, dir.path().join("text_encoder/model.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let tensors = checkpoint.tensors("text_encoder", DType::F32, &Device::Cpu).unwrap();
    ClipTextModel::load(&config(golden), tensors)
}

fn config(golden: &Golden) -> ClipTextConfig {
    serde_json::from_str(&golden.config).unwrap()
}

fn ids(golden: &Golden) -> Vec<Vec<u32>> {
    golden.get("ids").to_dtype(DType::U32).unwrap().to_vec2().unwrap()
}

fn outputs(output: &TextOutput) -> [(&'static str, &Tensor); 3] {
    let TextOutput { last_hidden_state, penultimate, pooled } = output;
    [("last_hidden_state", last_hidden_state), ("penultimate", penultimate), ("pooled", pooled)]
}

#[test]
fn equals_transformers_with_and_without_the_prefix() {
    for name in CASES {
        let golden = Golden::read(&format!("text-{name}"));
        let bare = |key: &str| key.strip_prefix("text_model.").unwrap_or(key).to_string();
        let prefixed = |key: &str| match bare(key) {
            key if key.starts_with("text_projection") => key,
            key => format!("text_model.{key}"),
        };
        for rename in [&bare as &dyn Fn(&str) -> String, &prefixed] {
            let output = load(&golden, rename).unwrap().forward(&ids(&golden)).unwrap();
            for (what, got) in outputs(&output) {
                let error = relative_error(got, &golden.get(what));
                println!("text-{name} {what}: relative error {error:.1e}");
                assert!(error < 1e-5, "text-{name} {what}: {error}");
            }
        }
    }
}

#[test]
fn a_row_is_byte_equal_in_any_company() {
    for name in CASES {
        let golden = Golden::read(&format!("text-{name}"));
        let (model, rows) = (load(&golden, str::to_string).unwrap(), ids(&golden));
        let together = model.forward(&rows).unwrap();
        for (n, row) in rows.iter().enumerate() {
            let alone = model.forward(std::slice::from_ref(row)).unwrap();
            for ((what, alone), (_, together)) in outputs(&alone).into_iter().zip(outputs(&together)) {
                let together = values(&together.narrow(0, n, 1).unwrap());
                assert!(values(alone) == together, "text-{name}: row {n} of {what} differs");
            }
        }
    }
}

#[test]
fn what_cannot_be_encoded_is_an_error() {
    let golden = Golden::read("text-sd1");
    let model = load(&golden, str::to_string).unwrap();
    let error = |ids: &[Vec<u32>]| model.forward(ids).unwrap_err().to_string();
    assert!(error(&[]).contains("rows of []"));
    assert!(error(&[vec![]]).contains("rows of [0]"));
    assert!(error(&[vec![1; 78]]).contains("expected rows of one length from 1 to 77"));
    assert!(error(&[vec![1; 77], vec![1; 76]]).contains("[77, 76]"));
    assert!(error(&[vec![130; 77]]).contains("id 130, but the text encoder knows only 130 tokens"));
}

#[test]
fn what_cannot_be_loaded_is_an_error() {
    let golden = Golden::read("text-sd1");
    let lost = |key: &str| key.replace("layers.1.mlp.fc2.bias", "elsewhere");
    let error = load(&golden, lost).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("encoder.layers.1.mlp.fc2.bias"), "{error}");

    let with = |change: fn(&mut ClipTextConfig)| {
        let mut config = config(&golden);
        change(&mut config);
        ClipTextModel::load(&config, golden.builder()).unwrap_err().to_string()
    };
    assert!(with(|c| c.hidden_act = "swish".to_string()).contains("hidden_act = \"swish\""));
    assert!(with(|c| c.num_attention_heads = 7).contains("7 heads and hidden_size 24"));
    assert!(with(|c| c.num_attention_heads = 0).contains("0 heads"));
    assert!(with(|c| c.vocab_size = 131).contains("[131, 24]"));
}

#[test]
fn the_built_in_model_reads_a_prompt() {
    let checkpoint = Checkpoint::builtin();
    let tokenizer = ClipTokenizer::load(&checkpoint, "tokenizer").unwrap();
    let config: ClipTextConfig = checkpoint.json("text_encoder/config.json").unwrap();
    let tensors = checkpoint.tensors("text_encoder", DType::F32, &Device::Cpu).unwrap();
    let model = ClipTextModel::load(&config, tensors).unwrap();
    let rows = ["a red circle on a white background", ""].map(|text| tokenizer.encode(text).unwrap());
    let output = model.forward(&rows).unwrap();
    assert_eq!(output.last_hidden_state.dims(), [2, 77, config.hidden_size]);
    assert!(values(&output.last_hidden_state).iter().all(|x| x.is_finite()));
}
