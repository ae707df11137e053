//! The VAE against diffusers on random tiny models, and tiled decoding against plain.

use crate::golden::{Golden, noise, relative_error, values};
use candle_core::Tensor;
use stablehand::diffusion::vae::{Vae, VaeConfig};

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
