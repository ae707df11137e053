//! Decoding large latents in overlapping tiles that are blended where they meet.
//!
//! Norms would see another picture in each tile, and neighbours would differ in brightness and contrast. So all tiles use
//! the moments of the whole picture, taken from a decode of its latents thinned out to the size of one tile.

use crate::ops::Tape;
use crate::ops::resample::resample_nearest;
use candle_core::{DType, Device, Result, Tensor};

/// How large latents are cut; all lengths in latents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tiling {
    /// Latents with more places than this are tiled: above 1024² pixels for Stable Diffusion.
    pub threshold: usize,
    /// Side of a tile.
    pub tile: usize,
    /// What neighbouring tiles have in common.
    pub overlap: usize,
}

impl Default for Tiling {
    fn default() -> Self {
        Tiling { threshold: 128 * 128, tile: 96, overlap: 32 }
    }
}

/// Where a tile begins along an axis, in latents, and the weight of each of its pixels.
type Span = (usize, Vec<f32>);

/// Where tiles begin along an axis: evenly spread, each pair sharing at least `overlap`.
fn starts(len: usize, tile: usize, overlap: usize) -> Vec<usize> {
    if len <= tile {
        return vec![0];
    }
    let step = (tile - overlap.min(tile - 1)).max(1);
    let gaps = (len - tile).div_ceil(step);
    (0..=gaps).map(|i| i * (len - tile) / gaps).collect()
}

/// Weight of each pixel of a tile: rises smoothly over the overlaps with its neighbours, which add up to one.
fn ramp(start: usize, size: usize, before: Option<usize>, after: Option<usize>, scale: usize) -> Vec<f32> {
    // `before` is where the previous tile ends, `after` where the next begins.
    let rise = |x: f32| x * x * (3.0 - 2.0 * x);
    let weight = |pixel: usize| {
        let at = (start * scale + pixel) as f32 + 0.5;
        let fade_in = before.map_or(1.0, |end| (at - (start * scale) as f32) / ((end - start) * scale) as f32);
        let end = start + size;
        let fade_out = after.map_or(1.0, |next| ((end * scale) as f32 - at) / ((end - next) * scale) as f32);
        rise(fade_in.clamp(0.0, 1.0)) * rise(fade_out.clamp(0.0, 1.0))
    };
    (0..size * scale).map(weight).collect()
}

impl Tiling {
    /// `[1, C, h, w]` to `[1, 3, scale·h, scale·w]` through `decode`, whole or in tiles.
    pub(super) fn decode(
        &self,
        latents: &Tensor,
        scale: usize,
        decode: impl Fn(&Tensor, Option<&Tape>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (_, _, h, w) = latents.dims4()?;
        if h * w <= self.threshold || (h <= self.tile && w <= self.tile) {
            return decode(latents, None);
        }
        let spans = |len: usize| {
            let starts = starts(len, self.tile, self.overlap);
            let size = self.tile.min(len);
            let span = |i: usize| {
                let before = i.checked_sub(1).map(|j| starts[j] + size);
                (starts[i], ramp(starts[i], size, before, starts.get(i + 1).copied(), scale))
            };
            (0..starts.len()).map(span).collect::<Vec<Span>>()
        };
        let (rows, columns) = (spans(h), spans(w));
        let thinned = resample_nearest(latents, h.min(self.tile), w.min(self.tile))?;
        let mut tape = Tape::recording();
        decode(&thinned, Some(&tape))?;
        let mut canvas = Canvas::new(h * scale, w * scale);
        for (top, down) in &rows {
            for (left, across) in &columns {
                let (height, width) = (down.len() / scale, across.len() / scale);
                let tile = latents.narrow(2, *top, height)?.narrow(3, *left, width)?.contiguous()?;
                tape = tape.replaying();
                canvas.add(&decode(&tile, Some(&tape))?, top * scale, left * scale, down, across)?;
            }
        }
        canvas.finish(latents.device(), latents.dtype())
    }
}

/// The picture that tiles are blended into.
struct Canvas {
    height: usize,
    width: usize,
    sums: Vec<f32>,
    weights: Vec<f32>,
}

impl Canvas {
    fn new(height: usize, width: usize) -> Self {
        Canvas { height, width, sums: Vec::new(), weights: vec![0.0; height * width] }
    }

    fn add(&mut self, tile: &Tensor, top: usize, left: usize, down: &[f32], across: &[f32]) -> Result<()> {
        let (_, channels, tile_height, tile_width) = tile.dims4()?;
        let values = tile.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        self.sums.resize(channels * self.height * self.width, 0.0);
        for y in 0..tile_height {
            let at = (top + y) * self.width + left;
            for (total, weight) in self.weights[at..at + tile_width].iter_mut().zip(across) {
                *total += down[y] * weight;
            }
            for c in 0..channels {
                let source = &values[(c * tile_height + y) * tile_width..][..tile_width];
                let target = &mut self.sums[c * self.height * self.width + at..][..tile_width];
                for ((target, value), weight) in target.iter_mut().zip(source).zip(across) {
                    *target += value * (down[y] * weight);
                }
            }
        }
        Ok(())
    }

    fn finish(mut self, device: &Device, dtype: DType) -> Result<Tensor> {
        let plane = self.height * self.width;
        for (i, sum) in self.sums.iter_mut().enumerate() {
            *sum /= self.weights[i % plane];
        }
        let channels = self.sums.len() / plane;
        Tensor::from_vec(self.sums, (1, channels, self.height, self.width), device)?.to_dtype(dtype)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_everything_and_overlap_enough() {
        for len in [97, 128, 160, 161, 200, 256, 300] {
            let starts = starts(len, 96, 32);
            assert_eq!(starts[0], 0);
            assert_eq!(starts.last().copied(), Some(len - 96));
            assert!(starts.windows(2).all(|p| p[1] > p[0] && p[0] + 96 >= p[1] + 32), "{len}: {starts:?}");
        }
        assert_eq!(starts(96, 96, 32), [0]);
    }

    #[test]
    fn what_tiles_agree_on_comes_out_as_it_was() {
        let latents = Tensor::rand(0f32, 1.0, (1, 3, 13, 22), &Device::Cpu).unwrap();
        let tiling = Tiling { threshold: 0, tile: 8, overlap: 3 };
        let double = |x: &Tensor, _: Option<&Tape>| x.upsample_nearest2d(2 * x.dim(2)?, 2 * x.dim(3)?);
        let tiled = tiling.decode(&latents, 2, double).unwrap();
        let whole = double(&latents, None).unwrap();
        let worst = (tiled - whole).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < 1e-6, "{worst}");
    }
}
