//! The UNet against diffusers on random tiny models, and its rows against each other.

use crate::golden::{Golden, noise, relative_error, values};
use candle_core::{DType, Device, Tensor};
use stablehand::diffusion::unet::{AddedConditions, Context, UNet, UNetConfig};

const CASES: [&str; 6] = ["sd1", "sd2", "sdxl", "nine", "lcm", "rare"];

fn load(golden: &Golden) -> UNet {
    let config: UNetConfig = serde_json::from_str(&golden.config).unwrap();
    UNet::load(&config, golden.builder()).unwrap()
}

fn added(golden: &Golden) -> AddedConditions {
    AddedConditions {
        pooled: golden.find("pooled"),
        time_ids: golden.find("time_ids"),
        guidance_embedding: golden.find("guidance_embedding"),
        class_labels: golden.find("class_labels").map(|t| t.to_dtype(DType::U32).unwrap()),
    }
}

#[test]
fn equals_diffusers_in_every_configuration() {
    for name in CASES {
        let golden = Golden::read(&format!("unet-{name}"));
        let unet = load(&golden);
        let context = unet.encode_context(&golden.get("embeddings")).unwrap();
        let output =
            unet.forward(&golden.get("latents"), &golden.get("timesteps"), &context, Some(&added(&golden))).unwrap();
        let error = relative_error(&output, &golden.get("output"));
        println!("unet-{name}: relative error {error:.1e}");
        assert!(error < 1e-5, "unet-{name}: {error}");
    }
}

#[test]
fn a_row_is_byte_equal_in_any_company() {
    for (name, height, width) in [("sd1", 16, 16), ("sd2", 13, 18), ("nine", 24, 8)] {
        let golden = Golden::read(&format!("unet-{name}"));
        let unet = load(&golden);
        let channels = unet.config().in_channels;
        let dim = golden.get("embeddings").dim(2).unwrap();
        let latents = noise(&[5, channels, height, width], 1);
        let timesteps = Tensor::new(&[999f32, 3.5, 500.0, 41.0, 0.0], &Device::Cpu).unwrap();
        let embeddings = noise(&[5, 9, dim], 2);
        let context = unet.encode_context(&embeddings).unwrap();
        let together = unet.forward(&latents, &timesteps, &context, None).unwrap();
        for row in 0..5 {
            let one = |x: &Tensor| x.narrow(0, row, 1).unwrap();
            let context = unet.encode_context(&one(&embeddings)).unwrap();
            let alone = unet.forward(&one(&latents), &one(&timesteps), &context, None).unwrap();
            assert!(values(&alone) == values(&one(&together)), "unet-{name}, row {row}");
        }
    }
}

#[test]
fn contexts_stack_and_rows_can_be_selected() {
    let golden = Golden::read("unet-sd1");
    let unet = load(&golden);
    let embeddings = golden.get("embeddings");
    let (latents, timesteps) = (golden.get("latents"), golden.get("timesteps"));
    let parts: Vec<Context> =
        (0..2).map(|n| unet.encode_context(&embeddings.narrow(0, n, 1).unwrap()).unwrap()).collect();
    let both = Context::stack(&[&parts[0], &parts[1]]).unwrap();
    assert_eq!(both.rows(), 2);
    let swapped = Context::stack(&[&parts[1], &parts[0]]).unwrap().select(&[1, 0]).unwrap();
    let expected = values(&unet.forward(&latents, &timesteps, &both, None).unwrap());
    assert!(values(&unet.forward(&latents, &timesteps, &swapped, None).unwrap()) == expected);
    let same = both.select(&[0, 0]).unwrap();
    assert!(values(&unet.forward(&latents, &timesteps, &same, None).unwrap()) != expected);
    assert!(both.select(&[2]).is_err());
    assert!(Context::stack(&[]).is_err());
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let golden = Golden::read("unet-sdxl");
    let unet = load(&golden);
    let (latents, timesteps) = (golden.get("latents"), golden.get("timesteps"));
    let context = unet.encode_context(&golden.get("embeddings")).unwrap();
    let message = unet.forward(&latents, &timesteps, &context, None).unwrap_err().to_string();
    assert!(message.contains("time ids"), "{message}");
    let added = added(&golden);
    let few = context.select(&[0]).unwrap();
    assert!(unet.forward(&latents, &timesteps, &few, Some(&added)).is_err());
    assert!(unet.forward(&latents.narrow(1, 0, 3).unwrap(), &timesteps, &context, Some(&added)).is_err());
    assert!(unet.encode_context(&noise(&[1, 9, 31], 1)).is_err());
}

#[test]
fn a_missing_tensor_is_named() {
    let mut golden = Golden::read("unet-sd1");
    let name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    golden.weights.remove(name).unwrap();
    let config: UNetConfig = serde_json::from_str(&golden.config).unwrap();
    let message = UNet::load(&config, golden.builder()).unwrap_err().to_string();
    assert!(message.contains(name), "{message}");
}
