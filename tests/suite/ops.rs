//! Our kernels against plain candle operations, at sizes that leave remainders everywhere.

use crate::golden::{noise, relative_error, values};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use stablehand::ops::{Conv2d, ConvShape, Fused, Geglu, GroupNorm, LayerNorm, Linear, attention, attention_plain};
use std::collections::HashMap;

const TOLERANCE: f64 = 2e-5;

fn close(what: &str, got: &Tensor, expected: &Tensor) {
    let error = relative_error(got, expected);
    assert!(error < TOLERANCE, "{what}: {error}");
}

fn parameters(channels: usize) -> VarBuilder<'static> {
    let tensors = [("weight", noise(&[channels], 11)), ("bias", noise(&[channels], 12))];
    let tensors: HashMap<String, Tensor> = tensors.map(|(name, t)| (name.to_string(), t)).into();
    VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
}

fn group_norm(groups: usize, channels: usize) -> GroupNorm {
    GroupNorm::load(parameters(channels), groups, channels, 1e-5).unwrap()
}

fn layer_norm(channels: usize) -> LayerNorm {
    LayerNorm::load(parameters(channels), channels, 1e-5).unwrap()
}

/// A convolution on our kernel and the same on candle's.
fn convolutions(shape: ConvShape) -> (Conv2d, Conv2d) {
    let weight = noise(&[shape.outputs, shape.inputs, shape.kernel, shape.kernel], 1);
    let bias = noise(&[shape.outputs], 2);
    (Conv2d::new(weight.clone(), bias.clone(), shape).unwrap(), Conv2d::plain(weight, bias, shape).unwrap())
}

#[test]
fn convolution_equals_candle() {
    let asymmetric = ConvShape { pad_before: 0, pad_after: 1, ..ConvShape::k3(8, 4) };
    let wide = ConvShape { inputs: 5, outputs: 9, kernel: 5, stride: 3, pad_before: 2, pad_after: 2 };
    let shapes = [
        (ConvShape::k3(4, 8), (7, 5)),
        (ConvShape::k3(8, 3), (1, 1)),
        (ConvShape::k3(12, 20), (9, 100)),
        (ConvShape::k3(64, 64), (40, 67)),
        (ConvShape::k3(200, 24), (33, 130)),
        (ConvShape::k1(8, 12), (6, 11)),
        (ConvShape::down(8, 1), (7, 10)),
        (ConvShape::down(8, 1), (8, 9)),
        (ConvShape::down(8, 0), (7, 10)),
        (asymmetric, (6, 6)),
        (wide, (11, 13)),
    ];
    for (shape, (h, w)) in shapes {
        let (ours, candle) = convolutions(shape);
        let x = noise(&[2, shape.inputs, h, w], 3);
        close(&format!("{shape:?}"), &ours.forward(&x).unwrap(), &candle.forward(&x).unwrap());
    }
}

#[test]
fn what_surrounds_a_convolution_equals_candle() {
    let (ours, candle) = convolutions(ConvShape::k3(8, 12));
    let norm = group_norm(4, 8);
    let x = ((noise(&[2, 8, 6, 9], 3) * 3.0).unwrap() + 1.5).unwrap();
    let row_bias = noise(&[2, 12], 4);
    for upsample in [None, Some((12, 18)), Some((11, 17))] {
        let (h, w) = upsample.unwrap_or((6, 9));
        let residual = noise(&[2, 12, h, w], 5);
        for norm in [None, Some(&norm)] {
            let fused = Fused {
                norm,
                tape: None,
                silu: norm.is_some(),
                upsample,
                row_bias: Some(&row_bias),
                residual: Some(&residual),
            };
            let (got, expected) = (ours.forward_with(&x, &fused).unwrap(), candle.forward_with(&x, &fused).unwrap());
            close(&format!("norm {} upsample {upsample:?}", norm.is_some()), &got, &expected);
        }
    }
}

#[test]
fn a_large_mean_does_not_spoil_the_norm() {
    let norm = group_norm(2, 4);
    let (ours, candle) = convolutions(ConvShape::k1(4, 4));
    let x = (noise(&[1, 4, 80, 90], 3) + 100.0).unwrap();
    let fused = Fused { norm: Some(&norm), ..Fused::default() };
    let error = relative_error(&ours.forward_with(&x, &fused).unwrap(), &candle.forward_with(&x, &fused).unwrap());
    assert!(error < 1e-4, "{error}");
}

#[test]
fn linear_layers_equal_candle() {
    for (tokens, inputs, outputs, bias) in
        [(1, 5, 7, true), (9, 16, 48, false), (130, 24, 100, true), (64, 7, 49, true)]
    {
        let weight = noise(&[outputs, inputs], 1);
        let bias = bias.then(|| noise(&[outputs], 2));
        let (ours, candle) = (Linear::new(weight.clone(), bias.clone()).unwrap(), Linear::plain(weight, bias).unwrap());
        let x = noise(&[2, tokens, inputs], 3);
        let (norm, residual) = (layer_norm(inputs), noise(&[2, tokens, outputs], 4));
        let what = format!("{tokens} tokens, {inputs} to {outputs}");
        close(&what, &ours.forward(&x).unwrap(), &candle.forward(&x).unwrap());
        let both = |linear: &Linear| linear.forward_with(&x, Some(&norm), Some(&residual)).unwrap();
        close(&what, &both(&ours), &both(&candle));
        let flat = noise(&[3, inputs], 5);
        close(&what, &ours.forward(&flat).unwrap(), &candle.forward(&flat).unwrap());
    }
}

#[test]
fn planes_to_tokens_and_back_equal_candle() {
    let (weight, bias) = (noise(&[20, 12], 1), noise(&[20], 2));
    let ours = Linear::new(weight.clone(), Some(bias.clone())).unwrap();
    let candle = Linear::plain(weight, Some(bias)).unwrap();
    let (planes, norm) = (noise(&[2, 12, 7, 11], 3), group_norm(3, 12));
    close(
        "from planes",
        &ours.from_planes(&planes, &norm, None).unwrap(),
        &candle.from_planes(&planes, &norm, None).unwrap(),
    );
    let (tokens, residual) = (noise(&[2, 77, 12], 4), noise(&[2, 20, 7, 11], 5));
    close("to planes", &ours.to_planes(&tokens, &residual).unwrap(), &candle.to_planes(&tokens, &residual).unwrap());
}

#[test]
fn geglu_equals_candle() {
    for (tokens, inputs, outputs) in [(5, 12, 48), (70, 20, 80)] {
        let (weight, bias) = (noise(&[2 * outputs, inputs], 1), noise(&[2 * outputs], 2));
        let (ours, candle) = (Geglu::new(&weight, &bias).unwrap(), Geglu::plain(&weight, &bias).unwrap());
        let (x, norm) = (noise(&[2, tokens, inputs], 3), layer_norm(inputs));
        close("geglu", &ours.forward(&x, &norm).unwrap(), &candle.forward(&x, &norm).unwrap());
    }
}

#[test]
fn attention_equals_candle() {
    for (tokens, keys, heads, dim) in
        [(1, 1, 1, 4), (50, 77, 3, 5), (100, 300, 2, 40), (49, 530, 1, 66), (16, 9, 2, 160)]
    {
        // Large enough that some weights are near one and others vanish.
        let wide = (noise(&[2, tokens, 3 * heads * dim], 1) * 4.0).unwrap();
        let q = wide.narrow(2, heads * dim, heads * dim).unwrap();
        let (k, v) = ((noise(&[2, keys, heads * dim], 2) * 4.0).unwrap(), noise(&[2, keys, heads * dim], 3));
        let what = format!("{tokens} queries, {keys} keys, {heads} heads of {dim}");
        close(&what, &attention(&q, &k, &v, heads).unwrap(), &attention_plain(&q, &k, &v, heads).unwrap());
    }
}

/// Scores a long way below the largest of an earlier chunk, and above it.
#[test]
fn attention_survives_extreme_scores() {
    let q = Tensor::ones((1, 3, 4), DType::F32, &Device::Cpu).unwrap();
    for sign in [1.0, -1.0] {
        let ramp: Vec<f32> = (0..600 * 4).map(|i| sign * (i / 4) as f32).collect();
        let k = Tensor::from_vec(ramp, (1, 600, 4), &Device::Cpu).unwrap();
        let v = noise(&[1, 600, 4], 1);
        close("ramp", &attention(&q, &k, &v, 1).unwrap(), &attention_plain(&q, &k, &v, 1).unwrap());
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (conv, _) = convolutions(ConvShape::k3(24, 40));
    let (linear, norm) = (Linear::new(noise(&[300, 24], 1), None).unwrap(), layer_norm(24));
    let (picture, tokens) = (noise(&[1, 24, 50, 31], 3), noise(&[1, 100, 24], 4));
    let all = || {
        let x = attention(&tokens, &tokens, &tokens, 2).unwrap();
        let (a, b) = (conv.forward(&picture).unwrap(), linear.forward_with(&x, Some(&norm), None).unwrap());
        (values(&a), values(&b))
    };
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(all);
    let seven = rayon::ThreadPoolBuilder::new().num_threads(7).build().unwrap().install(all);
    assert!(one == seven);
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let (conv, _) = convolutions(ConvShape::k3(4, 8));
    let x = noise(&[1, 4, 5, 5], 1);
    assert!(conv.forward(&noise(&[1, 3, 5, 5], 1)).is_err());
    let (row_bias, residual) = (noise(&[1, 7], 1), noise(&[1, 8, 5, 4], 1));
    assert!(conv.forward_with(&x, &Fused { row_bias: Some(&row_bias), ..Fused::default() }).is_err());
    assert!(conv.forward_with(&x, &Fused { residual: Some(&residual), ..Fused::default() }).is_err());
    assert!(conv.forward_with(&x, &Fused { norm: Some(&group_norm(2, 8)), ..Fused::default() }).is_err());
    let linear = Linear::new(noise(&[8, 4], 1), None).unwrap();
    assert!(linear.forward(&noise(&[1, 2, 5], 1)).is_err());
    assert!(linear.to_planes(&noise(&[1, 6, 4], 1), &noise(&[1, 8, 2, 2], 1)).is_err());
    let q = noise(&[1, 2, 6], 1);
    assert!(attention(&q, &q, &q, 4).is_err());
    assert!(attention(&q, &noise(&[2, 2, 6], 1), &q, 2).is_err());
}
