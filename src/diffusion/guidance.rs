//! Classifier-free guidance (Ho & Salimans 2022), on plain numbers.

/// Whether diffusers guides at this scale: it takes the unconditional row only above 1.
pub fn is_on(guidance_scale: f64) -> bool {
    guidance_scale > 1.0
}

/// `unconditional + scale·(conditional − unconditional)` in f32, as diffusers' pipelines compute it.
pub fn combine(unconditional: &[f32], conditional: &[f32], scale: f64) -> Vec<f32> {
    let scale = scale as f32;
    unconditional.iter().zip(conditional).map(|(u, c)| u + scale * (c - u)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_goes_from_one_row_through_the_other() {
        assert_eq!(combine(&[1.0, -2.0], &[3.0, -2.0], 0.0), [1.0, -2.0]);
        assert_eq!(combine(&[1.0, -2.0], &[3.0, -2.0], 1.0), [3.0, -2.0]);
        assert_eq!(combine(&[1.0, -2.0], &[3.0, -2.0], 7.5), [16.0, -2.0]);
        assert!(!is_on(1.0) && !is_on(0.0) && is_on(1.001));
    }
}
