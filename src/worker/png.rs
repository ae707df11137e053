//! Pictures to PNG.

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageResult, RgbImage};

/// The picture as PNG, lossless, made for speed rather than for the last byte.
pub fn encode(picture: &RgbImage) -> ImageResult<Vec<u8>> {
    let mut bytes = Vec::with_capacity(picture.as_raw().len() / 2);
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive).write_image(
        picture.as_raw(),
        picture.width(),
        picture.height(),
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pictures_come_back() {
        let picture = RgbImage::from_fn(37, 19, |x, y| image::Rgb([x as u8 * 7, y as u8 * 13, (x * y) as u8]));
        let png = encode(&picture).unwrap();
        let back = image::load_from_memory_with_format(&png, image::ImageFormat::Png).unwrap();
        assert_eq!(back.into_rgb8(), picture);
    }
}
