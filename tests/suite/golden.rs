//! Reads goldens made by `tests/parity`: tensors with the model's weights under `model.` and its configuration.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use std::path::PathBuf;

/// One golden file.
pub struct Golden {
    pub config: String,
    pub weights: HashMap<String, Tensor>,
    tensors: HashMap<String, Tensor>,
}

/// The folder of goldens: `STABLEHAND_GOLDENS`, or those in the repository.
pub fn folder() -> PathBuf {
    let committed = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    std::env::var_os("STABLEHAND_GOLDENS").map_or_else(committed, PathBuf::from)
}

impl Golden {
    pub fn read(name: &str) -> Golden {
        let bytes = std::fs::read(folder().join(format!("{name}.safetensors"))).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let config = metadata.metadata().as_ref().unwrap()["config"].clone();
        let (mut weights, mut tensors) = (HashMap::new(), HashMap::new());
        for (name, tensor) in candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap() {
            match name.strip_prefix("model.") {
                Some(name) => weights.insert(name.to_string(), tensor.to_dtype(DType::F32).unwrap()),
                None => tensors.insert(name, tensor),
            };
        }
        Golden { config, weights, tensors }
    }

    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_tensors(self.weights.clone(), DType::F32, &Device::Cpu)
    }

    pub fn get(&self, name: &str) -> Tensor {
        self.find(name).unwrap()
    }

    pub fn find(&self, name: &str) -> Option<Tensor> {
        self.tensors.get(name).cloned()
    }
}

pub fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest deviation from `expected`, relative to its root mean square.
pub fn relative_error(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.dims(), expected.dims());
    let (got, expected) = (values(got), values(expected));
    let scale = (expected.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / expected.len() as f64).sqrt();
    let worst = got.iter().zip(&expected).map(|(a, b)| f64::from(a - b).abs()).fold(0.0, |a, b| {
        // A NaN must not be lost.
        if b.is_nan() { f64::INFINITY } else { f64::max(a, b) }
    });
    worst / scale
}

/// Numbers without structure but always the same, about −1..1.
pub fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}
