//! The file formats that OpenAI's clients may ask for.

use std::borrow::Cow;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ImageFormat, ImageResult};

/// How pictures are handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As they are stored.
    Png,
    /// With this quality, 1–100.
    Jpeg(u8),
    /// Without loss.
    WebP,
}

impl Format {
    pub const NAMES: [(&'static str, Format); 3] =
        [("png", Format::Png), ("jpeg", Format::Jpeg(100)), ("webp", Format::WebP)];

    /// With the quality that was asked for, where there is one.
    pub fn new(format: Format, compression: Option<u8>) -> Format {
        match (format, compression) {
            (Format::Jpeg(_), Some(quality)) => Format::Jpeg(quality.clamp(1, 100)),
            (format, _) => format,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Format::Png => "png",
            Format::Jpeg(_) => "jpeg",
            Format::WebP => "webp",
        }
    }

    pub fn is_png(self) -> bool {
        self == Format::Png
    }

    /// A stored picture in this format.
    pub fn convert(self, png: &[u8]) -> ImageResult<Cow<'_, [u8]>> {
        if self.is_png() {
            return Ok(png.into());
        }
        let picture = image::load_from_memory_with_format(png, ImageFormat::Png)?.into_rgb8();
        let mut bytes = Vec::new();
        match self {
            Format::Jpeg(quality) => picture.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, quality))?,
            _ => picture.write_with_encoder(WebPEncoder::new_lossless(&mut bytes))?,
        }
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use image::RgbImage;

    #[test]
    fn pictures_come_in_each_format() {
        let picture = RgbImage::from_fn(40, 24, |x, y| image::Rgb([x as u8 * 6, y as u8 * 10, 90]));
        let mut png = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut png, ImageFormat::Png).unwrap();
        let png = png.into_inner();
        for (name, format) in Format::NAMES {
            assert_eq!(format.name(), name);
            let bytes = format.convert(&png).unwrap();
            let kind = image::guess_format(&bytes).unwrap();
            assert_eq!(kind, ImageFormat::from_extension(name).unwrap());
            let back = image::load_from_memory_with_format(&bytes, kind).unwrap().into_rgb8();
            let off = back.as_raw().iter().zip(picture.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(off <= if format.is_png() || name == "webp" { 0 } else { 12 }, "{name}: {off}");
        }
        let quality = |quality| Format::new(Format::Jpeg(100), Some(quality)).convert(&png).unwrap().len();
        assert!(quality(10) < quality(95));
        assert!(Format::WebP.convert(b"no picture").is_err());
    }
}
