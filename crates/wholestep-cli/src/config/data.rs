//! `[data]`: where rows come from and how they are split. Takes the section, gives training, validation and test parts, standardized by the
//! training part alone. Never downloads and never looks at the test part before the end.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use wholestep::data::csv::{Column, ColumnKind, Csv, Vocabulary};
use wholestep::data::images::{Channels, ImageFolder};
use wholestep::data::{Array, Dataset, Standardize};
use wholestep::{Error, ErrorKind, Result};

/// The source of rows. In files `kind` names the variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Data {
    /// The four files of MNIST in a folder.
    Mnist(Folder),
    /// The four files of Fashion-MNIST in a folder.
    FashionMnist(Folder),
    /// One of scikit-learn's classification tables, such as iris.csv.
    Sklearn(Folder),
    /// A table with column names.
    Csv(Table),
    /// A pair of IDX files.
    Idx(Pair),
    /// A pair of NumPy files.
    Npy(Pair),
    /// A NumPy archive with the arrays x and y.
    Npz(Folder),
    /// A folder of pictures for each class.
    ImageFolder(Pictures),
}

/// A path and the split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    pub path: PathBuf,
    /// Share of the training rows that are held out to validate on.
    #[serde(default)]
    pub validation: f64,
    /// Share of all rows that are held out to test on, where the source has no test part of its own.
    #[serde(default)]
    pub test: f64,
    /// Scales the features to mean 0 and deviation 1.
    #[serde(default)]
    pub standardize: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub path: PathBuf,
    /// The column to predict.
    pub target: String,
    /// Whether the target is a class (a word or a number of it) and not a quantity.
    #[serde(default)]
    pub classes: bool,
    /// Columns of words: a feature of 0 and 1 for each word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub one_hot: Vec<String>,
    /// Columns that are not read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skip: Vec<String>,
    #[serde(default)]
    pub validation: f64,
    #[serde(default)]
    pub test: f64,
    #[serde(default)]
    pub standardize: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    pub x: PathBuf,
    pub y: PathBuf,
    #[serde(default)]
    pub validation: f64,
    #[serde(default)]
    pub test: f64,
    #[serde(default)]
    pub standardize: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pictures {
    pub path: PathBuf,
    /// Height and width; absent: all pictures have one size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<(usize, usize)>,
    #[serde(default)]
    pub gray: bool,
    #[serde(default)]
    pub validation: f64,
    #[serde(default)]
    pub test: f64,
    #[serde(default)]
    pub standardize: bool,
}

/// The parts of a data set.
pub struct Loaded {
    pub train: Dataset,
    pub validation: Option<Dataset>,
    pub test: Option<Dataset>,
    pub scaling: Option<Standardize>,
    /// Words of columns that hold words.
    pub vocabularies: Vec<(String, Vec<String>)>,
}

impl Data {
    fn split(&self) -> (f64, f64, bool) {
        match self {
            Data::Mnist(f) | Data::FashionMnist(f) | Data::Sklearn(f) | Data::Npz(f) => {
                (f.validation, f.test, f.standardize)
            }
            Data::Csv(t) => (t.validation, t.test, t.standardize),
            Data::Idx(p) | Data::Npy(p) => (p.validation, p.test, p.standardize),
            Data::ImageFolder(p) => (p.validation, p.test, p.standardize),
        }
    }

    /// Errors: shares that leave nothing to train on.
    pub fn check(&self) -> Result<()> {
        let (validation, test, _) = self.split();
        for (key, share) in [("validation", validation), ("test", test)] {
            if !(0.0..1.0).contains(&share) {
                let message = format!("{key}: need a share of the rows from 0 to below 1, got {share}");
                return Err(Error::new(ErrorKind::Config, message));
            }
        }
        if matches!(self, Data::Mnist(_) | Data::FashionMnist(_)) && test > 0.0 {
            return Err(Error::new(
                ErrorKind::Config,
                "test: this source has a test part of its own; leave the key out",
            ));
        }
        Ok(())
    }

    /// Makes relative paths start at `folder`, and whole: a run is evaluated from other folders, too.
    pub fn resolve(&mut self, folder: &Path) {
        let join = |path: &mut PathBuf| {
            let joined = folder.join(&*path);
            *path = std::fs::canonicalize(&joined).or_else(|_| std::path::absolute(&joined)).unwrap_or(joined);
        };
        match self {
            Data::Mnist(f) | Data::FashionMnist(f) | Data::Sklearn(f) | Data::Npz(f) => join(&mut f.path),
            Data::Csv(t) => join(&mut t.path),
            Data::Idx(p) | Data::Npy(p) => [&mut p.x, &mut p.y].into_iter().for_each(join),
            Data::ImageFolder(p) => join(&mut p.path),
        }
    }
}

type Words = Vec<(String, Vec<String>)>;

/// Reads and splits. Errors: a file that is missing or damaged; a part without a row.
pub fn load(data: &Data, seed: u64) -> Result<Loaded> {
    let (all, test, vocabularies) = source(data)?;
    // Here and not after the split, where rows have other numbers.
    [Some(&all), test.as_ref()].into_iter().flatten().try_for_each(Dataset::check_finite)?;
    let (validation, test_share, standardize) = data.split();
    let cut = |data: &Dataset, key: &str, share: f64, seed: u64| {
        cut(data, share, seed).map_err(|e| e.context(format!("[data] {key} = {share}")))
    };
    let (rest, test) = match (test, cut(&all, "test", test_share, seed)?) {
        (Some(test), _) => (all, Some(test)),
        (None, Some((rest, test))) => (rest, Some(test)),
        (None, None) => (all, None),
    };
    let (train, validation) = match cut(&rest, "validation", validation, seed ^ 1)? {
        Some((train, validation)) => (train, Some(validation)),
        None => (rest, None),
    };
    let scaling = if standardize { Some(Standardize::fit(&train, "x")?) } else { None };
    let scaled = |part: Dataset| scaling.as_ref().map_or(Ok(part.clone()), |s| s.apply(&part));
    Ok(Loaded {
        train: scaled(train)?,
        validation: validation.map(scaled).transpose()?,
        test: test.map(scaled).transpose()?,
        scaling,
        vocabularies,
    })
}

/// All rows but those of a test part of the source's own, that part, and the words of word columns.
fn source(data: &Data) -> Result<(Dataset, Option<Dataset>, Words)> {
    let plain = |data: Dataset| (data, None, Words::new());
    match data {
        Data::Mnist(f) => wholestep::data::mnist(&f.path).map(|(train, test)| (train, Some(test), Words::new())),
        Data::FashionMnist(f) => wholestep::data::fashion_mnist(&f.path).map(|(a, b)| (a, Some(b), Words::new())),
        Data::Sklearn(f) => wholestep::data::sklearn_table(&f.path).map(plain),
        Data::Csv(t) => table(t, &[], true).map(|(data, words)| (data, None, words)),
        Data::Idx(p) => pair(wholestep::data::idx::read(&p.x)?, wholestep::data::idx::read(&p.y)?).map(plain),
        Data::Npy(p) => pair(wholestep::data::npy::read(&p.x)?, wholestep::data::npy::read(&p.y)?).map(plain),
        Data::Npz(f) => wholestep::data::npz::dataset(&f.path).map(plain),
        Data::ImageFolder(p) => {
            let channels = if p.gray { Channels::Gray } else { Channels::Rgb };
            let options = ImageFolder { channels, size: p.size, classes: Vec::new() };
            wholestep::data::images::folder(&p.path, &options).map(plain)
        }
    }
}

/// Pictures of bytes become f32 in \[0, 1\].
fn pair(x: Array, y: Array) -> Result<Dataset> {
    let x = match (x.as_slice::<u8>(), x.shape()) {
        (Some(bytes), shape) => {
            // IDX pictures have no channel axis.
            let shape = if let [n, h, w] = *shape { vec![n, 1, h, w] } else { shape.to_vec() };
            Array::new(bytes.iter().map(|&b| f32::from(b) / 255.0).collect(), shape)?
        }
        (None, _) => x,
    };
    Dataset::new([("x", x), ("y", y)])
}

/// How the table at `path` is written: `.tsv` has tabs between cells, packed as `.tsv.gz` or not.
pub fn dialect(path: &Path) -> Csv {
    let name = path.to_string_lossy().to_lowercase();
    if name.trim_end_matches(".gz").ends_with(".tsv") { Csv::tsv() } else { Csv::new() }
}

/// A table with the words that were learned before, or those it has. Without `with_target` there need not be a target column.
pub fn table(t: &Table, known: &[(String, Vec<String>)], with_target: bool) -> Result<(Dataset, Words)> {
    let words = |name: &str| match known.iter().find(|(n, _)| n == name) {
        Some((_, words)) => Vocabulary::Given(words.clone()),
        None => Vocabulary::Learned,
    };
    let mut csv = dialect(&t.path);
    for name in &t.one_hot {
        csv = csv.column(name.as_str(), ColumnKind::OneHot(words(name)));
    }
    for name in &t.skip {
        csv = csv.skip(name.as_str());
    }
    if with_target {
        let kind = if t.classes { ColumnKind::Label(words(&t.target)) } else { ColumnKind::Target };
        csv = csv.column(Column::Name(t.target.clone()), kind);
    }
    let table = csv.read(&t.path)?;
    let vocabulary = |c: &wholestep::data::csv::TableColumn| (c.name.clone(), c.vocabulary.clone());
    let words = table.columns.iter().filter(|c| !c.vocabulary.is_empty()).map(vocabulary).collect();
    Ok((table.into_dataset().map_err(|e| e.context(t.path.display()))?, words))
}

/// A share of the rows apart from the rest, by class where there are classes; (rest, share).
fn cut(data: &Dataset, share: f64, seed: u64) -> Result<Option<(Dataset, Dataset)>> {
    if share == 0.0 {
        return Ok(None);
    }
    let parts = if data.class_names().is_empty() {
        data.split(1.0 - share, seed)
    } else {
        data.split_stratified(1.0 - share, seed)
    };
    parts.map(Some)
}
