//! Values that several commands take: what is allowed is said when something else is given.

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::domain::{NoiseSource, Scheduler};

/// A picture side in pixels.
pub fn side(text: &str) -> Result<usize, String> {
    let allowed = "a multiple of 8 from 64 to 8192, such as 512 or 768";
    match text.parse() {
        Ok(side) if (64..=8192).contains(&side) && side % 8 == 0 => Ok(side),
        Ok(side) if (64..=8192).contains(&side) => {
            let below = side / 8 * 8;
            Err(format!("must be {allowed}: {below} and {} are the nearest", below + 8))
        }
        _ => Err(format!("must be {allowed}")),
    }
}

/// A guidance scale.
pub fn guidance_scale(text: &str) -> Result<f64, String> {
    let allowed = "must be a number from 0 to 100, such as 7.5; 1 and below turn guidance off";
    text.parse().ok().filter(|scale| (0.0..=100.0).contains(scale)).ok_or_else(|| allowed.to_string())
}

/// A scheduler by its name in the API.
pub fn scheduler() -> impl TypedValueParser<Value = Scheduler> {
    PossibleValuesParser::new(Scheduler::ALL.map(Scheduler::name))
        .try_map(|name| Scheduler::from_name(&name).ok_or("not a scheduler"))
}

/// Whose random numbers.
pub fn noise() -> impl TypedValueParser<Value = NoiseSource> {
    PossibleValuesParser::new(["cuda", "torch-cpu"]).map(|name| match name.as_str() {
        "torch-cpu" => NoiseSource::TorchCpu,
        _ => NoiseSource::Cuda,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sides_say_what_would_be_right() {
        assert_eq!(side("768"), Ok(768));
        assert!(side("770").unwrap_err().ends_with("768 and 776 are the nearest"));
        for wrong in ["0", "-8", "63", "9000", "big"] {
            assert!(side(wrong).unwrap_err().contains("from 64 to 8192"), "{wrong}");
        }
    }

    #[test]
    fn guidance_is_a_finite_number() {
        assert_eq!(guidance_scale("7.5"), Ok(7.5));
        assert!(guidance_scale("NaN").is_err() && guidance_scale("inf").is_err() && guidance_scale("-1").is_err());
    }
}
