//! One picture. Takes the bytes of a PNG or JPEG file, gives 8-bit pixels of the channels asked for. Never reserves
//! memory for more pixels than a fixed bound, and never drops real transparency.

use std::io::Cursor;

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::Channels;
use crate::Result;
use crate::data::bytes::data_error;

/// The most pixels that a header is believed.
const MAX_PIXELS: usize = 64_000_000;

/// Rows of pixels, each of 1 or 3 bytes.
pub(super) struct Picture {
    pub height: usize,
    pub width: usize,
    pub pixels: Vec<u8>,
}

pub(super) fn picture(bytes: &[u8], channels: Channels) -> Result<Picture> {
    // 1 byte is gray, 2 gray and alpha, 3 RGB, 4 RGBA.
    let (height, width, n_bytes, pixels) = match bytes {
        [0x89, b'P', b'N', b'G', ..] => png(bytes)?,
        [0xff, 0xd8, 0xff, ..] => jpeg(bytes)?,
        _ => {
            let start = bytes[..bytes.len().min(8)].escape_ascii();
            return Err(data_error(format!(
                "expected a PNG or JPEG picture, the file starts with \"{start}\"; convert it"
            )));
        }
    };
    let mut out = Vec::with_capacity(height * width * channels.count());
    for pixel in pixels.chunks_exact(n_bytes) {
        let (rgb, alpha) = match *pixel {
            [v] => ([v; 3], 255),
            [v, alpha] => ([v; 3], alpha),
            [r, g, b] => ([r, g, b], 255),
            [r, g, b, alpha] => ([r, g, b], alpha),
            _ => panic!("bug: a pixel of {n_bytes} bytes"),
        };
        if alpha != 255 {
            return Err(data_error(
                "the picture is transparent, and what lies behind is not known; put it on a background",
            ));
        }
        match channels {
            Channels::Gray => out.push(luma(rgb)),
            Channels::Rgb => out.extend(rgb),
        }
    }
    Ok(Picture { height, width, pixels: out })
}

/// ITU-R 601-2 in 16-bit fixed point, rounded: the same bits as Pillow. Gray stays as it is.
fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((19_595 * u32::from(r) + 38_470 * u32::from(g) + 7_471 * u32::from(b) + 0x8000) >> 16) as u8
}

fn check_size(height: usize, width: usize) -> Result<()> {
    if height == 0 || width == 0 || height.checked_mul(width).is_none_or(|n| n > MAX_PIXELS) {
        return Err(data_error(format!(
            "expected 1 to {MAX_PIXELS} pixels, height x width {height}x{width} came; the header is damaged, or shrink the picture"
        )));
    }
    Ok(())
}

fn png(bytes: &[u8]) -> Result<(usize, usize, usize, Vec<u8>)> {
    let failed = |e: png::DecodingError| data_error(format!("the PNG picture is damaged: {e}; make it again"));
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: 5 * MAX_PIXELS });
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let header = decoder.read_header_info().map_err(failed)?;
    let (height, width) = (header.height as usize, header.width as usize);
    check_size(height, width)?;
    let mut reader = decoder.read_info().map_err(failed)?;
    // The reader takes a palette whose last color is not whole for a bug of the caller's.
    if reader.info().palette.as_ref().is_some_and(|palette| palette.len() % 3 != 0) {
        return Err(data_error(
            "the PNG picture is damaged: its palette ends within a color; make it again".to_string(),
        ));
    }
    let n_bytes = reader.output_color_type().0.samples();
    let mut pixels = vec![0; height * width * n_bytes];
    reader.next_frame(&mut pixels).map_err(failed)?;
    Ok((height, width, n_bytes, pixels))
}

fn jpeg(bytes: &[u8]) -> Result<(usize, usize, usize, Vec<u8>)> {
    let failed = |e| data_error(format!("the JPEG picture is damaged: {e}; make it again"));
    // Strict: otherwise the rest of a truncated picture would be gray without a word.
    let options = DecoderOptions::new_safe().set_strict_mode(true).jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(failed)?;
    let info =
        decoder.info().ok_or_else(|| data_error("the JPEG picture is damaged: it has no header; make it again"))?;
    let (height, width) = (usize::from(info.height), usize::from(info.width));
    check_size(height, width)?;
    let pixels = decoder.decode().map_err(failed)?;
    if pixels.len() != height * width * 3 {
        return Err(data_error(format!(
            "the JPEG picture is damaged: {} bytes of pixels came; make it again",
            pixels.len()
        )));
    }
    Ok((height, width, 3, pixels))
}
