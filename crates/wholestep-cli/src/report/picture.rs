//! Pictures. Takes rows of bytes, gives a PNG as a data URI. Never enlarges: the browser does that.

use super::Picture;

/// Longer sides are averaged down to this: a page of 48 photographs stays below a few megabytes.
const MAX_SIDE: u32 = 160;

/// The picture as `data:image/png;base64,…`; `None` when the sizes do not fit the bytes or are senseless.
pub fn data_uri(picture: &Picture) -> Option<String> {
    let color = match picture.channels {
        1 => png::ColorType::Grayscale,
        2 => png::ColorType::GrayscaleAlpha,
        3 => png::ColorType::Rgb,
        4 => png::ColorType::Rgba,
        _ => return None,
    };
    let n_bytes = u128::from(picture.width) * u128::from(picture.height) * u128::from(picture.channels);
    if n_bytes == 0 || n_bytes != picture.pixels.len() as u128 {
        return None;
    }
    let small = shrink(picture);
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, small.width, small.height);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(&small.pixels).ok()?;
    writer.finish().ok()?;
    Some(format!("data:image/png;base64,{}", base64(&file)))
}

/// Averages whole blocks of pixels until both sides fit.
fn shrink(picture: &Picture) -> Picture {
    let block = picture.width.max(picture.height).div_ceil(MAX_SIDE);
    if block <= 1 {
        return picture.clone();
    }
    let (width, height) = (picture.width.div_ceil(block), picture.height.div_ceil(block));
    let mut pixels = Vec::with_capacity((width * height * picture.channels) as usize);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..picture.channels {
                pixels.push(block_mean(picture, x * block, y * block, block, channel));
            }
        }
    }
    Picture { width, height, channels: picture.channels, pixels }
}

fn block_mean(picture: &Picture, left: u32, top: u32, block: u32, channel: u32) -> u8 {
    let (mut sum, mut n) = (0u64, 0u64);
    for y in top..(top + block).min(picture.height) {
        for x in left..(left + block).min(picture.width) {
            let at = (u64::from(y) * u64::from(picture.width) + u64::from(x)) * u64::from(picture.channels);
            sum += u64::from(picture.pixels[at as usize + channel as usize]);
            n += 1;
        }
    }
    ((sum + n / 2) / n.max(1)) as u8
}

/// RFC 4648, with padding.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for i in 0..4 {
            match i <= three.len() {
                true => out.push(char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63])),
                false => out.push('='),
            }
        }
    }
    out
}
