//! No bytes may panic a reader of data or weights. Pure noise rarely passes a magic number, so good files are damaged as well: this is the
//! short version of the fuzz targets in `fuzz/`, which runs with every test.

use proptest::prelude::*;
use wholestep::checkpoint::{Meta, Scaling, Weights};
use wholestep::data::csv::{ColumnKind, Csv, Missing, Vocabulary};
use wholestep::data::images::{Channels, from_bytes};
use wholestep::data::{idx, npy, npz};
use wholestep::nn::BatchNorm1dSpec;
use wholestep::spec::Model;
use wholestep::{Device, ErrorKind, Infer, Scope};

use crate::golden;

/// Bytes of a good file with some of them overwritten, and cut somewhere.
fn damaged(files: &[&str]) -> impl Strategy<Value = Vec<u8>> + use<> {
    damaged_bytes(files.iter().map(|file| std::fs::read(golden(file)).unwrap()).collect())
}

fn damaged_bytes(files: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> + use<> {
    // Any byte, or one that headers are made of: such an edit mostly leaves the rest readable.
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"0123456789[]{},:\"'- .FIU".as_slice())];
    let edits = prop::collection::vec((any::<prop::sample::Index>(), byte), 0..8);
    (prop::sample::select(files), edits, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(mut bytes, edits, end, cut)| {
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if cut {
                bytes.truncate(end.index(bytes.len()));
            }
            bytes
        },
    )
}

/// Files of weights: as a step writes them, with and without a description of the model.
fn weights() -> Vec<Vec<u8>> {
    let model = Model::input([3]).linear(2).layer(BatchNorm1dSpec::new()).relu().linear(2);
    let infer = |s: &Scope| model.build(s).expect("the model is sound").output().clone();
    let mut program = Infer::compile(&Device::cpu_with_threads(1), 1, infer).unwrap();
    let weights = Weights::of_infer(&mut program).unwrap();
    let scalings = vec![Scaling { column: "x".into(), mean: vec![0.1; 3], std: vec![3.0; 3] }];
    let full = Meta { model: Some(model), scalings, epoch: Some(4), ..Meta::default() };
    [Meta::default(), full].map(|meta| weights.to_bytes(&meta).unwrap()).to_vec()
}

/// Reads a table in each way that looks at the cells differently.
fn read_table(bytes: &[u8]) {
    let csv = Csv::new();
    let words = ColumnKind::Index(Vocabulary::Given(vec!["a".into()]));
    for csv in [
        csv.clone(),
        csv.clone().no_header().missing(Missing::DropRow).one_hot(0),
        csv.clone().no_header().skip_lines(1).missing(Missing::Fill(0.0)).int(0),
        csv.clone().delimiter(b';').index(0),
        csv.column(0, words),
    ] {
        if let Ok(table) = csv.from_bytes(bytes) {
            let _ = table.into_dataset();
        }
    }
}

/// How many cases of each kind; for a long run set it to 100,000.
const CASES: &str = "TEST_CASES";

fn cases() -> ProptestConfig {
    ProptestConfig::with_cases(std::env::var(CASES).map_or(400, |n| n.parse().unwrap()))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = (idx::from_bytes(&bytes), npy::from_bytes(&bytes), npz::from_bytes(&bytes));
        let _ = from_bytes(&bytes, Channels::Rgb);
        read_table(&bytes);
    }

    #[test]
    fn headers_of_idx(code in 8u8..16, axes in 0u8..4, bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = idx::from_bytes(&[&[0, 0, code, axes], &bytes[..]].concat());
    }

    #[test]
    fn damaged_arrays(bytes in damaged(&["f4.npy", "fortran.npy", "u8.npy", "bool.npy", "version3.npy", "records.npy"])) {
        // What passes as an array is written and read again as the same array.
        if let Ok(array) = npy::from_bytes(&bytes) {
            let written = npy::to_bytes(&array);
            let again = npy::from_bytes(&written).unwrap();
            prop_assert_eq!((again.dtype(), again.shape()), (array.dtype(), array.shape()));
            prop_assert!(npy::to_bytes(&again) == written);
        }
    }

    #[test]
    fn damaged_weights(bytes in damaged_bytes(weights())) {
        match Weights::from_bytes(&bytes) {
            Err(e) => prop_assert_eq!(e.kind(), ErrorKind::Checkpoint),
            Ok((weights, meta)) => {
                let written = weights.to_bytes(&meta).unwrap();
                let (again, meta) = Weights::from_bytes(&written).unwrap();
                prop_assert!(again.to_bytes(&meta).unwrap() == written);
            }
        }
    }

    #[test]
    fn damaged_archives(bytes in damaged(&["stored.npz", "deflated.npz"])) {
        let _ = npz::from_bytes(&bytes);
    }

    #[test]
    fn damaged_tables(bytes in damaged(&["houses.csv"])) {
        read_table(&bytes);
    }

    #[test]
    fn damaged_pictures(bytes in damaged(&["pets/cat/a.png", "pets/dog/a.png", "pets/cat/c.jpg", "pets/dog/c.jpeg"])) {
        let _ = from_bytes(&bytes, Channels::Gray);
    }
}
