//! Well-known data sets from files on disk. Takes a folder or a file, gives train and test parts ready for a model.
//! Never downloads anything.

use std::path::{Path, PathBuf};

use super::array::Array;
use super::bytes::data_error;
use super::csv::{Column, ColumnKind, Csv, Vocabulary};
use super::dataset::Dataset;
use super::idx;
use crate::{Error, ErrorKind, Result};

/// What the classes of Fashion-MNIST are called (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747, table 2).
const FASHION: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// MNIST as (train, test): `"x"` f32 `[N, 1, 28, 28]` in \[0, 1\], `"y"` u32 `[N]`, classes "0" to "9".
///
/// `dir` holds the four files under their usual names (`train-images-idx3-ubyte` …), each plain or with `.gz`.
/// Errors: a file is missing or damaged, images and labels differ in number, a label is not below 10.
pub fn mnist(dir: impl AsRef<Path>) -> Result<(Dataset, Dataset)> {
    let dir = dir.as_ref();
    let names: Vec<String> = (0..10).map(|i| i.to_string()).collect();
    Ok((labelled_images(dir, "train", &names)?, labelled_images(dir, "t10k", &names)?))
}

/// Fashion-MNIST as (train, test), in the form of [`mnist`], classes "T-shirt/top" to "Ankle boot".
///
/// Where the full training files are not there, those of its first 10,000 images (`train10k-…`) are taken.
/// Errors: as [`mnist`].
pub fn fashion_mnist(dir: impl AsRef<Path>) -> Result<(Dataset, Dataset)> {
    let dir = dir.as_ref();
    let names = FASHION.map(String::from);
    let train = if existing(dir, "train-images-idx3-ubyte").is_some() { "train" } else { "train10k" };
    Ok((labelled_images(dir, train, &names)?, labelled_images(dir, "t10k", &names)?))
}

fn existing(dir: &Path, name: &str) -> Option<PathBuf> {
    [dir.join(name), dir.join(format!("{name}.gz"))].into_iter().find(|p| p.is_file())
}

fn read_idx(dir: &Path, name: &str) -> Result<Array> {
    let path = existing(dir, name).ok_or_else(|| {
        Error::new(
            ErrorKind::Io,
            format!("{}: expected {name} or {name}.gz in this folder, neither is there", dir.display()),
        )
    })?;
    idx::read(path)
}

/// `PART-images-idx3-ubyte` and `PART-labels-idx1-ubyte` as one data set.
fn labelled_images(dir: &Path, part: &str, class_names: &[String]) -> Result<Dataset> {
    let images = read_idx(dir, &format!("{part}-images-idx3-ubyte"))?;
    let labels = read_idx(dir, &format!("{part}-labels-idx1-ubyte"))?;
    let in_dir = |e: Error| e.context(format!("{}, {part}", dir.display()));
    let (Some(pixels), &[n, height, width]) = (images.as_slice::<u8>(), images.shape()) else {
        return Err(in_dir(data_error(format!("expected images u8 [N, H, W], {images:?} came"))));
    };
    if labels.shape() != [n] {
        return Err(in_dir(data_error(format!("{n} images came with labels of shape {:?}", labels.shape()))));
    }
    let y: Vec<u32> = labels.cast::<u32>().map_err(in_dir)?.slice::<u32>()?.to_vec();
    if let Some(row) = y.iter().position(|&l| l as usize >= class_names.len()) {
        let text = format!("label {row} is {}, expected one below {}", y[row], class_names.len());
        return Err(in_dir(data_error(text)));
    }
    let x = pixels.iter().map(|&p| f32::from(p) / 255.0).collect();
    let columns = [("x", Array::new(x, [n, 1, height, width])?), ("y", Array::from_vec(y))];
    Ok(Dataset::new(columns)?.with_class_names(class_names))
}

/// One of scikit-learn's classification tables (iris, wine, breast cancer): its first line holds the number of rows and
/// of features and the class names, the others hold features and then the class index.
///
/// Gives `"x"` f32 `[N, F]` and `"y"` u32 `[N]` with class names. Errors: the first line is not of this form, the
/// numbers in it are not those of the table, or an error of [`Csv::read`].
pub fn sklearn_table(path: impl AsRef<Path>) -> Result<Dataset> {
    let path = path.as_ref();
    let first = first_line(path)?;
    let words: Vec<&str> = first.trim_end().split(',').collect();
    let (rows, n_features) = match words[..] {
        [rows, features, _, ..] => (rows.parse::<usize>().ok(), features.parse::<usize>().ok()),
        [] | [_] | [_, _] => (None, None),
    };
    let in_file = |text: String| data_error(text).context(path.display());
    let (Some(rows), Some(n_features)) = (rows, n_features) else {
        return Err(in_file(format!("line 1: expected \"rows,features,class names…\", {first:?} came")));
    };
    let class_names = &words[2..];
    let indices = Vocabulary::Given((0..class_names.len()).map(|i| i.to_string()).collect());
    let csv = Csv::new().no_header().skip_lines(1).column(Column::Last, ColumnKind::Label(indices));
    let data = csv.read(path)?.into_dataset()?;
    if data.rows() != rows || data.feature_names().len() != n_features {
        let (r, f) = (data.rows(), data.feature_names().len());
        return Err(in_file(format!("line 1 says {rows} rows of {n_features} features, {r} of {f} came")));
    }
    Ok(data.with_class_names(class_names.iter().copied()))
}

fn first_line(path: &Path) -> Result<String> {
    use std::io::{BufRead, Read};
    let mut line = String::new();
    // A file without any line break must not be read to its end for this.
    let mut start = std::io::BufReader::new(super::bytes::open(path)?).take(1 << 16);
    start.read_line(&mut line).map_err(|e| Error::io("read", path, e))?;
    Ok(line)
}
