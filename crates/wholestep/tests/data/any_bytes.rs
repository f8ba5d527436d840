//! No bytes may panic a reader. Pure noise rarely passes a magic number, so good files are damaged as well: this is the
//! short version of the fuzz targets in `fuzz/`, which runs with every test.

use proptest::prelude::*;
use wholestep::data::csv::{ColumnKind, Csv, Missing, Vocabulary};
use wholestep::data::images::{Channels, from_bytes};
use wholestep::data::{idx, npy, npz};

use crate::golden;

/// Bytes of a good file with some of them overwritten, and cut somewhere.
fn damaged(files: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    (prop::sample::select(files), edits, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(file, edits, end, cut)| {
            let mut bytes = std::fs::read(golden(file)).unwrap();
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

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
        let _ = npy::from_bytes(&bytes);
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
