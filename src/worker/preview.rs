//! Previews of a running prediction, as the JSON that those who watch it read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use image::{RgbImage, imageops};
use serde::Serialize;

use super::png;

#[derive(Serialize)]
struct Preview {
    step: usize,
    total: usize,
    /// A PNG as a data URI.
    image: String,
}

/// The previews of a prediction's pictures, several of them as one sheet. `None` when it cannot be encoded, which costs
/// nothing but this preview.
pub fn encode(step: usize, total: usize, pictures: &[RgbImage]) -> Option<Bytes> {
    let png = png::encode(&sheet(pictures)).ok()?;
    let image = format!("data:image/png;base64,{}", STANDARD.encode(png));
    serde_json::to_vec(&Preview { step, total, image }).ok().map(Bytes::from)
}

/// Pictures of one size, row by row in about a square.
fn sheet(pictures: &[RgbImage]) -> RgbImage {
    let columns = (1..).find(|side| side * side >= pictures.len()).unwrap_or(1);
    let (width, height) = pictures.first().map_or((1, 1), RgbImage::dimensions);
    let rows = pictures.len().div_ceil(columns).max(1);
    let mut sheet = RgbImage::new(width * columns.max(1) as u32, height * rows as u32);
    for (i, picture) in pictures.iter().enumerate() {
        let (x, y) = ((i % columns) as i64 * i64::from(width), (i / columns) as i64 * i64::from(height));
        imageops::replace(&mut sheet, picture, x, y);
    }
    sheet
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn several_pictures_share_a_sheet() {
        let picture = |level| RgbImage::from_pixel(2, 3, image::Rgb([level; 3]));
        assert_eq!(sheet(&[picture(9)]), picture(9));
        assert_eq!(sheet(&[picture(1), picture(2)]).dimensions(), (4, 3));
        let three = sheet(&[picture(1), picture(2), picture(3)]);
        assert_eq!(three.dimensions(), (4, 6));
        let at = |x, y| three.get_pixel(x, y).0[0];
        assert_eq!([at(0, 0), at(3, 2), at(1, 5), at(2, 3)], [1, 2, 3, 0]);
        assert_eq!(sheet(&[]).dimensions(), (1, 1));
    }

    #[test]
    fn the_json_holds_a_png() {
        let picture = RgbImage::from_pixel(2, 3, image::Rgb([7, 8, 9]));
        let json: serde_json::Value =
            serde_json::from_slice(&encode(3, 20, std::slice::from_ref(&picture)).unwrap()).unwrap();
        assert_eq!((&json["step"], &json["total"]), (&3.into(), &20.into()));
        let png = STANDARD.decode(json["image"].as_str().unwrap().strip_prefix("data:image/png;base64,").unwrap());
        let back = image::load_from_memory_with_format(&png.unwrap(), image::ImageFormat::Png).unwrap();
        assert_eq!(back.into_rgb8(), picture);
    }
}
