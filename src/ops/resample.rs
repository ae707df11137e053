//! Nearest-neighbour resampling.

use candle_core::{Result, Tensor};

/// Which source index each of `to` places reads, as torch's `interpolate(mode="nearest")` to a given size does.
pub fn nearest_indices(from: usize, to: usize) -> Vec<usize> {
    let scale = from as f32 / to as f32;
    (0..to).map(|i| ((i as f32 * scale) as usize).min(from - 1)).collect()
}

/// `[N, C, H, W]` to `[N, C, height, width]`.
pub fn resample_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    if height == 2 * h && width == 2 * w {
        return x.upsample_nearest2d(height, width);
    }
    let indices = |from, to| -> Result<Tensor> {
        let indices: Vec<u32> = nearest_indices(from, to).into_iter().map(|i| i as u32).collect();
        Tensor::from_vec(indices, to, x.device())
    };
    x.index_select(&indices(h, height)?, 2)?.index_select(&indices(w, width)?, 3)
}

#[cfg(test)]
mod tests {
    use super::nearest_indices;

    #[test]
    fn doubling_repeats_and_odd_sizes_follow_torch() {
        assert_eq!(nearest_indices(3, 6), [0, 0, 1, 1, 2, 2]);
        assert_eq!(nearest_indices(3, 5), [0, 0, 1, 1, 2]);
        assert_eq!(nearest_indices(4, 7), [0, 0, 1, 1, 2, 2, 3]);
    }
}
