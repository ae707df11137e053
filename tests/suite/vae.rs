//! The VAE against diffusers on random tiny models, and tiled decoding against plain.

use crate::golden::{Golden, noise, relative_error, values};
use candle_core::{DType, Device, Tensor};
use stablehand::diffusion::vae::{Tiling, Vae, VaeConfig};
use stablehand::weights::Checkpoint;

fn load(golden: &Golden) -> Vae {
    let config: VaeConfig = serde_json::from_str(&golden.config).unwrap();
    Vae::load(&config, golden.builder()).unwrap()
}

#[test]
fn decoder_and_encoder_equal_diffusers() {
    for name in ["sd", "plain"] {
        let golden = Golden::read(&format!("vae-{name}"));
        let vae = load(&golden);
        let (mean, logvar) = vae.encode(&golden.get("pictures")).unwrap();
        let decoded = vae.decode(&golden.get("latents")).unwrap();
        for (what, got) in [("decoded", decoded), ("mean", mean), ("logvar", logvar)] {
            let error = relative_error(&got, &golden.get(what));
            println!("vae-{name} {what}: relative error {error:.1e}");
            assert!(error < 1e-5, "vae-{name} {what}: {error}");
        }
    }
}

#[test]
fn names_of_the_first_releases_load() {
    let mut golden = Golden::read("vae-sd");
    let expected = load(&golden).decode(&golden.get("latents")).unwrap();
    let renames = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
    let old = |name: String| renames.iter().fold(name, |name, (new, old)| name.replace(new, old));
    golden.weights = golden.weights.into_iter().map(|(name, tensor)| (old(name), tensor)).collect();
    assert!(golden.weights.contains_key("decoder.mid_block.attentions.0.proj_attn.bias"));
    assert!(values(&load(&golden).decode(&golden.get("latents")).unwrap()) == values(&expected));
}

#[test]
fn a_picture_is_byte_equal_in_any_company() {
    let golden = Golden::read("vae-sd");
    let vae = load(&golden);
    let latents = noise(&[3, 4, 6, 9], 3);
    let pictures = noise(&[3, 3, 24, 36], 4);
    let together = vae.decode(&latents).unwrap();
    let (means, _) = vae.encode(&pictures).unwrap();
    for row in 0..3 {
        let one = |x: &Tensor| x.narrow(0, row, 1).unwrap();
        assert!(values(&vae.decode(&one(&latents)).unwrap()) == values(&one(&together)));
        assert!(values(&vae.encode(&one(&pictures)).unwrap().0) == values(&one(&means)));
    }
}

/// A picture with a gradient behind three figures, −1..1, `[1, 3, side, side]`.
fn picture(side: usize) -> Tensor {
    let mut pixels = vec![0f32; 3 * side * side];
    for (i, (y, x)) in (0..side * side).map(|i| (i / side, i % side)).enumerate() {
        let (u, v) = (x as f32 / side as f32, y as f32 / side as f32);
        let color = match () {
            _ if (u - 0.4).hypot(v - 0.55) < 0.25 => [0.9, 0.1, 0.1],
            _ if (0.6..0.9).contains(&u) && (0.1..0.4).contains(&v) => [0.1, 0.3, 0.9],
            _ if (u - 0.75).hypot(v - 0.8) < 0.12 => [0.1, 0.6, 0.2],
            _ => [0.9 - 0.5 * v, 0.8 - 0.2 * u, 0.6 + 0.3 * v],
        };
        color.iter().enumerate().for_each(|(c, value)| pixels[c * side * side + i] = value * 2.0 - 1.0);
    }
    Tensor::from_vec(pixels, (1, 3, side, side), &Device::Cpu).unwrap()
}

/// In 8-bit levels: the largest deviation, and the largest step between neighbours that tiling adds.
fn seam(tiled: &Tensor, whole: &Tensor) -> (f32, f32) {
    let difference = ((tiled - whole).unwrap() * 127.5).unwrap();
    let largest = |x: Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let step = |axis: usize| {
        let len = difference.dim(axis).unwrap() - 1;
        (difference.narrow(axis, 1, len).unwrap() - difference.narrow(axis, 0, len).unwrap()).unwrap()
    };
    (largest(difference.clone()), f32::max(largest(step(2)), largest(step(3))))
}

#[test]
fn tiles_leave_no_visible_seam() {
    let checkpoint = Checkpoint::builtin();
    let config: VaeConfig = checkpoint.json("vae/config.json").unwrap();
    let vae = Vae::load(&config, checkpoint.tensors("vae", DType::F32, &Device::Cpu).unwrap()).unwrap();
    let latents = vae.encode(&picture(640)).unwrap().0;
    let whole = vae.decode(&latents).unwrap();
    let vae = vae.with_tiling(Tiling { threshold: 0, tile: 48, overlap: 16 });
    let tiled = vae.decode(&latents).unwrap();
    assert_eq!(tiled.dims(), whole.dims());
    let (deviation, step) = seam(&tiled, &whole);
    println!("tiled decode: at most {deviation:.2} levels off, steps of at most {step:.2} levels added");
    assert!(deviation < 8.0 && step < 3.0, "{deviation} {step}");
}

#[test]
fn small_latents_are_decoded_whole() {
    let golden = Golden::read("vae-plain");
    let latents = golden.get("latents");
    let expected = values(&load(&golden).decode(&latents).unwrap());
    let below = load(&golden).with_tiling(Tiling { threshold: 6 * 3, tile: 4, overlap: 2 });
    assert!(values(&below.decode(&latents).unwrap()) == expected);
    let above = load(&golden).with_tiling(Tiling { threshold: 6 * 3 - 1, tile: 4, overlap: 2 });
    assert!(values(&above.decode(&latents).unwrap()) != expected);
}
