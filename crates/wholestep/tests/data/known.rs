use std::path::PathBuf;

use sha2::{Digest, Sha256};
use wholestep::data::csv::{ColumnKind, Csv, Vocabulary};
use wholestep::data::{Array, Dataset, Standardize, fashion_mnist, mnist, npz, sklearn_table};

use crate::golden;

fn kept(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../data").join(name)
}

fn column(arrays: &[(String, Array)], name: &str) -> Array {
    arrays.iter().find(|a| a.0 == name).unwrap().1.clone()
}

#[test]
fn the_files_are_those_of_the_list_and_no_others() {
    let readme = std::fs::read_to_string(kept("README.md")).unwrap();
    let is_sum = |w: &str| w.len() == 64 && w.bytes().all(|b| b.is_ascii_hexdigit());
    let mut listed: Vec<(String, String)> = readme
        .lines()
        .filter_map(|l| l.split_once("  "))
        .filter(|(sum, _)| is_sum(sum))
        .map(|(sum, name)| (name.to_string(), sum.to_string()))
        .collect();
    let mut found = Vec::new();
    for dir in ["mnist", "tables"] {
        for entry in std::fs::read_dir(kept(dir)).unwrap() {
            let name = format!("{dir}/{}", entry.unwrap().file_name().to_str().unwrap());
            let sum = Sha256::digest(std::fs::read(kept(&name)).unwrap());
            found.push((name, sum.iter().map(|b| format!("{b:02x}")).collect::<String>()));
        }
    }
    listed.sort();
    found.sort();
    assert_eq!(found, listed);
    let n_bytes: u64 = found.iter().map(|f| std::fs::metadata(kept(&f.0)).unwrap().len()).sum();
    assert!(n_bytes < 15_000_000, "{n_bytes} bytes of data are in the repository");
}

#[test]
fn mnist_is_what_its_page_says() {
    let (train, test) = mnist(kept("mnist")).unwrap();
    assert_eq!(train.column("x").unwrap().shape(), [60_000, 1, 28, 28]);
    assert_eq!(test.column("x").unwrap().shape(), [10_000, 1, 28, 28]);
    let y = train.column("y").unwrap().slice::<u32>().unwrap();
    // The first labels are 5 0 4 1 9, and NumPy's bincount of the training labels is the line below.
    assert_eq!(y[..5], [5, 0, 4, 1, 9]);
    let mut counts = [0; 10];
    y.iter().for_each(|&l| counts[l as usize] += 1);
    assert_eq!(counts, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]);
    // The mean and deviation that everyone normalizes MNIST with.
    let scale = Standardize::fit(&train, "x").unwrap();
    assert!((scale.mean[0] - 0.1307).abs() < 5e-5 && (scale.std[0] - 0.3081).abs() < 5e-5, "{scale:?}");
    assert_eq!(train.class_names()[9], "9");
}

#[test]
fn a_folder_without_its_files_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let e = fashion_mnist(dir.path()).unwrap_err().to_string();
    let at = dir.path().display();
    assert_eq!(
        e,
        format!(
            "{at}: expected train10k-images-idx3-ubyte or train10k-images-idx3-ubyte.gz in this folder, neither is there"
        )
    );
    // Two images of 1x2 with labels 9 and 3, as plain files.
    for part in ["train", "t10k"] {
        let images = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 51, 255, 102];
        std::fs::write(dir.path().join(format!("{part}-images-idx3-ubyte")), images).unwrap();
        let labels = [0, 0, 8, 1, 0, 0, 0, 2, 9, 3];
        std::fs::write(dir.path().join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
    }
    let (train, _) = fashion_mnist(dir.path()).unwrap();
    assert_eq!(train.column("x").unwrap(), &Array::new(vec![0f32, 0.2, 1.0, 0.4], [2, 1, 1, 2]).unwrap());
    assert_eq!(train.class_names()[9], "Ankle boot");
    std::fs::write(dir.path().join("t10k-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 2, 9, 10]).unwrap();
    let e = fashion_mnist(dir.path()).unwrap_err().to_string();
    assert_eq!(e, format!("{at}, t10k: label 1 is 10, expected one below 10"));
}

#[test]
fn tables_of_scikit_learn() {
    let iris = sklearn_table(kept("tables/iris.csv")).unwrap();
    assert_eq!(iris.class_names(), ["setosa", "versicolor", "virginica"]);
    assert_eq!(iris.column("x").unwrap().shape(), [150, 4]);
    assert_eq!(iris.column("x").unwrap().slice::<f32>().unwrap()[..4], [5.1, 3.5, 1.4, 0.2]);
    let cancer = sklearn_table(kept("tables/breast_cancer.csv")).unwrap();
    assert_eq!(cancer.column("x").unwrap().shape(), [569, 30]);
    // scikit-learn documents 212 malignant and 357 benign.
    let y = cancer.column("y").unwrap().slice::<u32>().unwrap();
    assert_eq!(y.iter().filter(|&&l| l == 0).count(), 212);
    let e = sklearn_table(kept("tables/diabetes.csv")).unwrap_err().to_string();
    assert!(e.contains("line 1: expected \"rows,features,class names…\", \"age,sex,bmi"), "{e}");
}

/// Fitted on the first 100 rows and applied to the rest, as scikit-learn's `StandardScaler` did in `make_golden.py`.
#[test]
fn standardized_wine_matches_scikit_learn() {
    let wine = sklearn_table(kept("tables/wine_data.csv")).unwrap();
    let train = wine.head(100).unwrap();
    let test = wine.take_rows(&(100..178).collect::<Vec<_>>()).unwrap();
    let scale = Standardize::fit(&train, "x").unwrap();
    let golden = npz::read(golden("wine.npz")).unwrap();
    let close =
        |a: &[f64], b: &[f64], tolerance: f64| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance * b.abs());
    assert!(close(&scale.mean, column(&golden, "mean").slice().unwrap(), 1e-12));
    assert!(close(&scale.std, column(&golden, "std").slice().unwrap(), 1e-10));
    let test = scale.apply(&test).unwrap();
    let (x, want) = (test.column("x").unwrap(), column(&golden, "x"));
    assert_eq!(x.shape(), want.shape());
    let pairs = x.slice::<f32>().unwrap().iter().zip(want.slice::<f32>().unwrap());
    assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 2e-6));
    assert_eq!(test.column("y").unwrap(), &column(&golden, "y"));
}

#[test]
fn regression_tables_and_pandas() {
    let diabetes = Csv::new().target("target").read(kept("tables/diabetes.csv")).unwrap().into_dataset().unwrap();
    assert_eq!(diabetes.column("x").unwrap().shape(), [442, 10]);
    assert_eq!(diabetes.column("y").unwrap().slice::<f32>().unwrap()[..2], [151.0, 75.0]);
    let cuts = ["Fair", "Good", "Very Good", "Premium", "Ideal"].map(String::from).to_vec();
    let csv = Csv::new().skip(0).column("cut", ColumnKind::OneHot(Vocabulary::Given(cuts))).one_hot("color");
    let diamonds = csv.index("clarity").target("price").read(kept("tables/diamonds.csv.gz")).unwrap();
    let diamonds = diamonds.into_dataset().unwrap();
    // 6 numbers, 5 cuts, 7 colours; clarity is a column of its own.
    assert_eq!(diamonds.column("x").unwrap().shape(), [53_940, 18]);
    assert_eq!(diamonds.column("clarity").unwrap().shape(), [53_940]);
    assert_eq!(diamonds.feature_names()[..3], ["carat", "cut=Fair", "cut=Good"]);

    // `get_dummies` of pandas puts the new columns last; they are last in x too when the table is read as it is.
    let houses = Csv::new().one_hot("city").target("price").read(golden("houses.csv")).unwrap().into_dataset().unwrap();
    let want = Dataset::new(npz::read(golden("houses.npz")).unwrap()).unwrap();
    assert_eq!(houses.feature_names()[1..3], ["rooms", "city=Roma"]);
    for name in ["x", "y"] {
        assert_eq!(houses.column(name).unwrap(), want.column(name).unwrap(), "{name}");
    }
}
