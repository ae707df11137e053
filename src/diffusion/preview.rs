//! A rough small picture from latents without the VAE: a linear map from their channels to red, green and blue.
//!
//! One pixel for each place of the latents. Owns the map's factors: the published ones of the Stable Diffusion VAEs,
//! for any other VAE a least-squares fit to what it decodes. Draws no random numbers but those of [`super::noise`].

use candle_core::{DType, Device, Tensor};

use super::noise::NoiseStream;
use super::vae::{Vae, VaeConfig};
use crate::domain::NoiseSource;

/// The autoencoder of Stable Diffusion 1.x and 2.x, as ComfyUI's `latent_formats.py` (`SD15`) publishes it.
const SD: [[f32; 3]; 5] = [
    [0.3512, 0.2297, 0.3227],
    [0.3250, 0.4974, 0.2350],
    [-0.2829, 0.1762, 0.2721],
    [-0.2120, -0.2616, -0.7177],
    [0.0, 0.0, 0.0],
];

/// The autoencoder of SDXL, from the same file (`SDXL`).
const SDXL: [[f32; 3]; 5] = [
    [0.3651, 0.4232, 0.4341],
    [-0.2533, -0.0042, 0.1068],
    [0.1076, 0.1111, -0.0362],
    [-0.3165, -0.2492, -0.2188],
    [0.1084, -0.0175, -0.0011],
];

/// The fit looks at a square of `PATCHES²` patches, each of `PATCH²` equal latents, of which the middle one counts.
const PATCHES: usize = 8;
const PATCH: usize = 3;

/// More places than this along a side are thinned out: nobody needs a large preview.
const LONGEST_SIDE: usize = 128;

/// Colour, −1..1, is affine in the latents (as the UNet sees them): one row for each channel, the last for one.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentRgb {
    rows: Vec<[f32; 3]>,
}

impl LatentRgb {
    /// The published map when this is a VAE of Stable Diffusion, else one fitted to what this VAE decodes.
    ///
    /// # Errors
    /// What decoding reports, or a VAE whose colours follow no such map.
    pub fn of(vae: &Vae, dtype: DType, device: &Device) -> candle_core::Result<LatentRgb> {
        match published(vae.config()) {
            Some(rows) => Ok(LatentRgb { rows: rows.to_vec() }),
            None => fit(vae, dtype, device),
        }
    }

    /// A picture of latents `[C, height, width]`.
    pub fn picture(&self, height: usize, width: usize, latents: &[f32]) -> image::RgbImage {
        let stride = height.max(width).div_ceil(LONGEST_SIDE).max(1);
        let (rows, columns) = (height.div_ceil(stride), width.div_ceil(stride));
        let plane = height * width;
        image::RgbImage::from_fn(columns as u32, rows as u32, |x, y| {
            let at = y as usize * stride * width + x as usize * stride;
            let (channels, one) = self.rows.split_at(self.rows.len().saturating_sub(1));
            let mut colour = one.first().copied().unwrap_or_default();
            for (channel, factors) in channels.iter().enumerate() {
                let value = latents.get(channel * plane + at).copied().unwrap_or_default();
                colour.iter_mut().zip(factors).for_each(|(c, factor)| *c += factor * value);
            }
            image::Rgb(colour.map(|c| ((c * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0) as u8))
        })
    }
}

/// Fine-tuned decoders keep their latents, so the architecture and the scale tell the family.
fn published(config: &VaeConfig) -> Option<&'static [[f32; 3]; 5]> {
    if config.latent_channels != 4 || config.block_out_channels != [128, 256, 512, 512] {
        return None;
    }
    let scale = |known: f64| (config.scaling_factor - known).abs() < 1e-4;
    match () {
        () if scale(0.18215) => Some(&SD),
        () if scale(0.13025) => Some(&SDXL),
        () => None,
    }
}

/// Decodes patches of random colours and asks which map gives them best.
fn fit(vae: &Vae, dtype: DType, device: &Device) -> candle_core::Result<LatentRgb> {
    let (channels, factor) = (vae.config().latent_channels, vae.config().downscale());
    let side = PATCHES * PATCH;
    let colours = NoiseStream::new(NoiseSource::Cuda, 0).draw(channels * PATCHES * PATCHES);
    let colour = |channel: usize, patch: usize| colours[channel * PATCHES * PATCHES + patch];
    let patch_of = |y: usize, x: usize| y / PATCH * PATCHES + x / PATCH;
    let scale = vae.config().scaling_factor as f32;
    let latents: Vec<f32> = (0..channels)
        .flat_map(|channel| (0..side * side).map(move |at| (channel, at)))
        .map(|(channel, at)| colour(channel, patch_of(at / side, at % side)) / scale)
        .collect();
    let latents = Tensor::from_vec(latents, (1, channels, side, side), device)?.to_dtype(dtype)?;
    let pixels = vae.decode(&latents)?.to_dtype(DType::F32)?;
    // Pixels of one latent become one.
    let means = pixels.avg_pool2d(factor)?.flatten_all()?.to_vec1::<f32>()?;
    let samples: Vec<(Vec<f64>, [f64; 3])> = (0..PATCHES * PATCHES)
        .map(|patch| {
            let middle = |i: usize| i * PATCH + PATCH / 2;
            let at = middle(patch / PATCHES) * side + middle(patch % PATCHES);
            let known = (0..channels).map(|c| f64::from(colour(c, patch))).chain([1.0]).collect();
            (known, [0, 1, 2].map(|rgb| f64::from(means[rgb * side * side + at])))
        })
        .collect();
    match least_squares(&samples) {
        Some(rows) => Ok(LatentRgb { rows }),
        None => candle_core::bail!("the colours of this VAE's pictures follow no linear map of its latents"),
    }
}

/// The matrix that maps the samples' first halves to their second ones best, by the normal equations. `None` when
/// there is no single best.
fn least_squares(samples: &[(Vec<f64>, [f64; 3])]) -> Option<Vec<[f32; 3]>> {
    let size = samples.first()?.0.len();
    let mut system = vec![vec![0.0; size + 3]; size];
    for (known, rgb) in samples {
        for (row, a) in system.iter_mut().zip(known) {
            row.iter_mut().zip(known.iter().chain(rgb)).for_each(|(sum, b)| *sum += a * b);
        }
    }
    // Gauss-Jordan with the largest pivot.
    for at in 0..size {
        let pivot = (at..size).max_by(|a, b| system[*a][at].abs().total_cmp(&system[*b][at].abs()))?;
        system.swap(at, pivot);
        let divisor = system[at][at];
        if !divisor.is_finite() || divisor.abs() < 1e-9 {
            return None;
        }
        system[at].iter_mut().for_each(|value| *value /= divisor);
        let pivot_row = system[at].clone();
        for (_, row) in system.iter_mut().enumerate().filter(|(i, _)| *i != at) {
            let weight = row[at];
            row.iter_mut().zip(&pivot_row).for_each(|(value, above)| *value -= weight * above);
        }
    }
    let rows = system.iter().map(|row| [row[size] as f32, row[size + 1] as f32, row[size + 2] as f32]);
    let rows: Vec<[f32; 3]> = rows.collect();
    rows.iter().flatten().all(|value| value.is_finite()).then_some(rows)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_linear_map_is_found_again() {
        let map = [[0.5, -0.25, 0.125], [1.0, 0.0, -1.0], [0.1, 0.2, 0.3]];
        let draws = NoiseStream::new(NoiseSource::Cuda, 3).draw(40);
        let sample = |pair: &[f32]| {
            let known = vec![f64::from(pair[0]), f64::from(pair[1]), 1.0];
            let rgb = [0, 1, 2].map(|c| known.iter().zip(&map).map(|(k, row)| k * row[c]).sum());
            (known, rgb)
        };
        let samples: Vec<_> = draws.chunks_exact(2).map(sample).collect();
        let found = least_squares(&samples).unwrap();
        let pairs = found.iter().flatten().zip(map.iter().flatten());
        assert!(pairs.into_iter().all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5), "{found:?}");
        assert_eq!(
            least_squares(&[(vec![1.0, 1.0], [0.0; 3]), (vec![2.0, 2.0], [1.0; 3])]),
            None,
            "two equal channels"
        );
        assert_eq!(least_squares(&[(vec![f64::NAN, 1.0], [0.0; 3])]), None);
        assert_eq!(least_squares(&[]), None);
    }

    #[test]
    fn pictures_have_a_pixel_for_each_place_and_are_thinned_out_when_large() {
        let map = LatentRgb { rows: vec![[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]] };
        let picture = map.picture(1, 3, &[-1.0, 0.0, 2.0]);
        assert_eq!(picture.as_raw(), &[0, 127, 255, 127, 127, 127, 255, 127, 0]);
        let large = map.picture(300, 200, &vec![f32::NAN; 60_000]);
        assert_eq!((large.width(), large.height()), (67, 100));
    }

    #[test]
    fn the_known_families_are_told_by_their_vae() {
        let config = |json: &str| serde_json::from_str::<VaeConfig>(json).unwrap();
        let sd = config(r#"{"block_out_channels": [128, 256, 512, 512]}"#);
        let sdxl = config(r#"{"block_out_channels": [128, 256, 512, 512], "scaling_factor": 0.13025}"#);
        assert_eq!((published(&sd), published(&sdxl)), (Some(&SD), Some(&SDXL)));
        for other in
            [r#"{"scaling_factor": 0.18215}"#, r#"{"block_out_channels": [128, 256, 512, 512], "scaling_factor": 1}"#]
        {
            assert_eq!(published(&config(other)), None);
        }
    }
}
