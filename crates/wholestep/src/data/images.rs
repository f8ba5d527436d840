//! Folders of pictures, one folder for each class. Takes PNG and JPEG files, gives a data set of one size and one number
//! of channels. Never skips a file that it cannot read without being asked: the file is named.

mod decode;

use std::path::{Path, PathBuf};

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::array::Array;
use super::bytes::data_error;
use super::dataset::Dataset;
use crate::{Error, ErrorKind, Result};
use decode::Picture;

/// What a pixel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// One number; colour becomes the luma of ITU-R 601-2, `0.299 R + 0.587 G + 0.114 B`, as in Pillow's mode "L".
    Gray,
    /// Red, green, blue; gray is repeated.
    Rgb,
}

impl Channels {
    /// Numbers in one pixel.
    pub fn count(self) -> usize {
        match self {
            Channels::Gray => 1,
            Channels::Rgb => 3,
        }
    }
}

/// How [`folder`] reads.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFolder {
    /// What a pixel of the result holds.
    pub channels: Channels,
    /// Height and width to resize each picture to (bilinear with the support of Pillow's `BILINEAR`, so that shrinking
    /// does not alias; the ratio of the sides is not kept). `None`: all pictures must have the size of the first.
    pub size: Option<(usize, usize)>,
    /// The classes and their order, for a second folder that must agree with a first. Empty: the names of the
    /// sub-folders in byte order.
    pub classes: Vec<String>,
}

/// The pictures in the sub-folders of `dir`: `"x"` f32 `[N, C, H, W]` in \[0, 1\], `"y"` u32 `[N]`, the class names.
///
/// A sub-folder is a class; its pictures follow in byte order of their names. Files whose name starts with a dot are
/// left out. The format is told by the first bytes. Orientation tags of cameras are not applied. 16 bits per channel are
/// cut to 8. Errors name the file: not PNG or JPEG, damaged, really transparent, above 64 million pixels, of another
/// size; a class without a picture; a file where a folder is expected and the other way round.
pub fn folder(dir: impl AsRef<Path>, options: &ImageFolder) -> Result<Dataset> {
    read_folder(dir.as_ref(), options, &mut |_, e| Err(e))
}

/// [`folder`] without the pictures that cannot be read, decoded or made to fit, and those with why.
/// Errors: no picture at all is left; a folder that cannot be read.
pub fn folder_skipping(dir: impl AsRef<Path>, options: &ImageFolder) -> Result<(Dataset, Vec<(PathBuf, Error)>)> {
    let mut skipped = Vec::new();
    let data = read_folder(dir.as_ref(), options, &mut |path, e| {
        skipped.push((path.to_path_buf(), e));
        Ok(())
    })?;
    if data.rows() == 0 {
        let why = skipped.into_iter().next().map_or(String::new(), |(_, e)| format!("; the first: {e}"));
        return Err(data_error(format!("{}: not one picture can be read{why}", dir.as_ref().display())));
    }
    Ok((data, skipped))
}

type OnFault<'a> = &'a mut dyn FnMut(&Path, Error) -> Result<()>;

fn read_folder(dir: &Path, options: &ImageFolder, on_fault: OnFault) -> Result<Dataset> {
    let classes = class_folders(dir, &options.classes)?;
    let (mut x, mut y) = (Vec::new(), Vec::new());
    let mut size = options.size.map(|size| (size, None));
    for (class, (_, class_dir)) in (0u32..).zip(&classes) {
        // Only a class that was given by name can be without a folder.
        if !class_dir.exists() {
            continue;
        }
        for path in pictures_in(class_dir)? {
            match read_picture(&path, options, &mut size) {
                Ok(picture) => {
                    push_planes(&picture, options.channels, &mut x);
                    y.push(class);
                }
                Err(e) => on_fault(&path, e)?,
            }
        }
    }
    let (height, width) = size.map_or((0, 0), |s| s.0);
    let x = Array::new(x, [y.len(), options.channels.count(), height, width])?;
    let data = Dataset::new([("x", x), ("y", Array::from_vec(y))])?;
    Ok(data.with_class_names(classes.into_iter().map(|c| c.0)))
}

/// One picture of the size that all have, which is that of the first where none was given.
fn read_picture(
    path: &Path,
    options: &ImageFolder,
    size: &mut Option<((usize, usize), Option<PathBuf>)>,
) -> Result<Picture> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let picture = decode::picture(&bytes, options.channels).map_err(|e| e.context(path.display()))?;
    let picture = match options.size {
        Some((height, width)) => resized(picture, height, width).map_err(|e| e.context(path.display()))?,
        None => picture,
    };
    let came = (picture.height, picture.width);
    let (expected, first) = size.get_or_insert_with(|| (came, Some(path.to_path_buf())));
    if *expected != came {
        let first = first.as_ref().map_or(String::new(), |p| format!(" as {}", p.display()));
        return Err(data_error(format!(
            "{}: expected height x width {}x{}{first}, {}x{} came; set a size to resize all pictures to",
            path.display(),
            expected.0,
            expected.1,
            came.0,
            came.1
        )));
    }
    Ok(picture)
}

/// The picture in the `bytes` of a PNG or JPEG file, u8 `[C, H, W]`. Errors: as [`folder`] for one file.
pub fn from_bytes(bytes: &[u8], channels: Channels) -> Result<Array> {
    let picture = decode::picture(bytes, channels)?;
    let c = channels.count();
    let planes = (0..c).flat_map(|i| picture.pixels.iter().skip(i).step_by(c).copied()).collect();
    Array::new(planes, [c, picture.height, picture.width])
}

/// Appends the picture channel by channel, scaled to \[0, 1\].
fn push_planes(picture: &Picture, channels: Channels, x: &mut Vec<f32>) {
    let c = channels.count();
    for i in 0..c {
        x.extend(picture.pixels.iter().skip(i).step_by(c).map(|&p| f32::from(p) / 255.0));
    }
}

fn resized(picture: Picture, height: usize, width: usize) -> Result<Picture> {
    if (picture.height, picture.width) == (height, width) {
        return Ok(picture);
    }
    let pixel = if picture.pixels.len() == picture.height * picture.width { PixelType::U8 } else { PixelType::U8x3 };
    let side = |n: usize| match u32::try_from(n) {
        Ok(n @ 1..=65_535) => Ok(n),
        Ok(_) | Err(_) => {
            Err(Error::new(ErrorKind::Config, format!("cannot resize to a side of {n}; 1 to 65535 are possible")))
        }
    };
    let (from_width, from_height) = (side(picture.width)?, side(picture.height)?);
    let mut to = Image::new(side(width)?, side(height)?, pixel);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    let from = ImageRef::new(from_width, from_height, &picture.pixels, pixel);
    let from = from.map_err(|e| data_error(format!("cannot resize: {e}")))?;
    Resizer::new().resize(&from, &mut to, &options).map_err(|e| data_error(format!("cannot resize: {e}")))?;
    Ok(Picture { height, width, pixels: to.into_vec() })
}

/// Entries of `dir` in byte order of their names, without those that start with a dot.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("read", dir, e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok(paths)
}

/// Name and path of each class.
fn class_folders(dir: &Path, given: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for path in entries(dir)? {
        if !path.is_dir() {
            let text =
                format!("{}: expected one folder for each class here, a file came; move it away", path.display());
            return Err(data_error(text));
        }
        found.push((path.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned()), path));
    }
    if found.is_empty() {
        return Err(data_error(format!("{}: expected one folder for each class, none is there", dir.display())));
    }
    if given.is_empty() {
        return Ok(found);
    }
    if let Some((_, path)) = found.iter().find(|(name, _)| !given.contains(name)) {
        return Err(data_error(format!("{}: expected one of the classes {given:?}", path.display())));
    }
    // A class that has no folder here keeps its index: the others must not move up.
    Ok(given.iter().map(|name| (name.clone(), dir.join(name))).collect())
}

fn pictures_in(class_dir: &Path) -> Result<Vec<PathBuf>> {
    let paths = entries(class_dir)?;
    if let Some(path) = paths.iter().find(|p| p.is_dir()) {
        return Err(data_error(format!("{}: expected pictures here, a folder came; move it away", path.display())));
    }
    if paths.is_empty() {
        return Err(data_error(format!("{}: expected at least one picture of this class", class_dir.display())));
    }
    Ok(paths)
}
