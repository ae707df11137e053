//! Picture sizes, and which permitted one comes closest to what a client wishes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Width and height in pixels, written `512x768`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

impl Size {
    pub fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        size.to_string()
    }
}

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Size, Self::Err> {
        let sides = text.split_once('x').and_then(|(width, height)| Some((side(width)?, side(height)?)));
        sides.map(|(width, height)| Size { width, height }).ok_or("a size is written like 512x768")
    }
}

impl TryFrom<String> for Size {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Size, Self::Error> {
        text.parse()
    }
}

fn side(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|side| digits && *side > 0)
}

/// What the Vercel AI SDK sends where Replicate's models take `width` and `height`: `"size": "512x768"` or
/// `"aspect_ratio": "16:9"`. A wish, never a mistake.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SizeWish {
    /// Width over height.
    ratio: f64,
    /// Absent: as many as by default.
    pixels: Option<u64>,
}

impl SizeWish {
    /// The wish in an `input`, if there is one that can be understood; a size goes before a ratio.
    pub fn of(input: &Map<String, Value>) -> Option<SizeWish> {
        let text = |name: &str| input.get(name).and_then(Value::as_str);
        let ratio = |size: Size| f64::from(size.width) / f64::from(size.height);
        let size: Option<Size> = text("size").and_then(|size| size.parse().ok());
        if let Some(size) = size {
            return Some(SizeWish { ratio: ratio(size), pixels: Some(size.pixels()) });
        }
        let (width, height) = text("aspect_ratio")?.split_once(':')?;
        let sides = Size { width: side(width)?, height: side(height)? };
        Some(SizeWish { ratio: ratio(sides), pixels: None })
    }

    /// The one of these sizes that comes closest: the ratio matters most, then the number of pixels.
    pub fn closest(self, sizes: &[Size], default: Size) -> Option<Size> {
        let pixels = self.pixels.unwrap_or(default.pixels()) as f64;
        let off = |a: f64, b: f64| (a / b).ln().abs();
        let distance = |size: &Size| {
            let wrong = off(f64::from(size.width) / f64::from(size.height), self.ratio);
            // Sides are steps apart: a ratio that is met to a few per cent is met.
            (if wrong < 0.03 { 0.0 } else { wrong }, off(size.pixels() as f64, pixels), wrong)
        };
        sizes.iter().copied().min_by(|a, b| {
            let (a, b) = (distance(a), distance(b));
            a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.total_cmp(&b.2))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::domain::InputTable;
    use serde_json::json;

    fn wish(input: Value) -> Option<SizeWish> {
        SizeWish::of(input.as_object().unwrap())
    }

    #[test]
    fn wishes_that_cannot_be_understood_are_none() {
        let wished = |ratio, pixels| Some(SizeWish { ratio, pixels });
        assert_eq!(wish(json!({"size": "64x32", "aspect_ratio": "1:1"})), wished(2.0, Some(2048)));
        assert_eq!(wish(json!({"size": "x", "aspect_ratio": "4:16"})), wished(0.25, None));
        for none in ["512", "512x", "0x512", "-1x5", "+5x5", "5x5x5", "5 x 5", "99999999999x1", ":", "x", ""] {
            assert_eq!(wish(json!({"size": none, "aspect_ratio": none})), None, "{none}");
        }
        assert_eq!(wish(json!({"size": 512, "aspect_ratio": null})), None);
    }

    #[test]
    fn the_closest_size_is_a_permitted_one() {
        let table = InputTable::default();
        let closest = |input| wish(input).unwrap().closest(&table.sizes(), table.default_size()).unwrap().to_string();
        assert_eq!(closest(json!({"size": "512x768"})), "512x768");
        assert_eq!(closest(json!({"size": "500x700"})), "512x704");
        assert_eq!(closest(json!({"size": "1x1"})), "64x64");
        // The model's limit of pixels is kept, and the square too.
        assert_eq!(closest(json!({"size": "1024x1024"})), "832x832");
        assert_eq!(closest(json!({"aspect_ratio": "1:1"})), "768x768");
        assert_eq!(closest(json!({"aspect_ratio": "16:9"})), "1024x576");
        assert_eq!(closest(json!({"aspect_ratio": "9:16"})), "576x1024");
        assert_eq!(closest(json!({"aspect_ratio": "3:2"})), "960x640");
        assert_eq!(closest(json!({"aspect_ratio": "1000:1"})), "1024x64");
    }
}
