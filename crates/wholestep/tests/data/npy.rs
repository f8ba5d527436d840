use std::collections::BTreeMap;

use proptest::prelude::*;
use wholestep::ErrorKind;
use wholestep::data::{Array, npy, npz};

use crate::golden;

fn read(name: &str) -> Array {
    npy::read(golden(&format!("{name}.npy"))).unwrap()
}

#[test]
fn floats_of_both_byte_orders() {
    // What NumPy says of [[0.5, -1.25, 2], [1e-3, 300, -0]] as f2: 1e-3 becomes 0.0010004043579101562.
    for name in ["f2", "f2_big"] {
        let want = vec![0.5f32, -1.25, 2.0, 0.001_000_404_4, 300.0, -0.0];
        assert_eq!(read(name), Array::new(want, [2, 3]).unwrap(), "{name}");
    }
    for name in ["f4", "f4_big"] {
        assert_eq!(read(name), Array::new(vec![0.5f32, -1.25, 2.0, 1e-3, 300.0, -0.0], [2, 3]).unwrap(), "{name}");
    }
    for name in ["f8", "f8_big"] {
        assert_eq!(read(name), Array::new(vec![0.5f64, -1.25, 2.0, 1e-3, 300.0, -0.0], [2, 3]).unwrap(), "{name}");
    }
}

#[test]
fn whole_numbers_and_bools() {
    for name in ["i1", "i2", "i4", "i2_big", "i4_big"] {
        assert_eq!(read(name), Array::from_vec(vec![-128i32, -1, 0, 1, 127]), "{name}");
    }
    for name in ["i8", "i8_big"] {
        assert_eq!(read(name), Array::from_vec(vec![-128i64, -1, 0, 1, 127]), "{name}");
    }
    assert_eq!(read("u1"), Array::from_vec(vec![0u8, 1, 255]));
    assert_eq!(read("u2"), Array::from_vec(vec![0i32, 1, 255]));
    assert_eq!(read("u2_big"), Array::from_vec(vec![0i32, 1, 255]));
    assert_eq!(read("u4"), Array::from_vec(vec![0u32, 1, 255]));
    assert_eq!(read("u8"), Array::from_vec(vec![0i64, 1, 255]));
    assert_eq!(read("bool"), Array::new(vec![true, false], [2, 1]).unwrap());
}

#[test]
fn shapes_orders_and_versions() {
    assert_eq!(read("scalar"), Array::scalar(7i32));
    assert_eq!(read("empty"), Array::new(Vec::<f32>::new(), [0, 3]).unwrap());
    assert_eq!(read("fortran"), Array::new((0..24).collect::<Vec<i32>>(), [2, 3, 4]).unwrap());
    assert_eq!(read("fortran_big"), Array::new(vec![0f64, 1., 2., 3., 4., 5.], [2, 3]).unwrap());
    for name in ["version2", "version3"] {
        assert_eq!(read(name), Array::from_vec(vec![0f32, 1.0, 2.0]), "{name}");
    }
}

#[test]
fn archives_stored_and_deflated() {
    for name in ["stored.npz", "deflated.npz"] {
        let arrays = npz::read(golden(name)).unwrap();
        assert_eq!(arrays.iter().map(|a| a.0.as_str()).collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(arrays[0].1, Array::new(vec![0f32, 1., 2., 3., 4., 5.], [3, 2]).unwrap());
        assert_eq!(arrays[1].1, Array::from_vec(vec![0i64, 1, 2]));
        assert_eq!(npz::dataset(golden(name)).unwrap().rows(), 3);
    }
}

#[test]
fn written_files_have_the_bytes_of_numpy() {
    let values = |n: usize| (0..n).map(|i| i % 2 + 1);
    for (i, shape) in [vec![], vec![5], vec![2, 3, 1]].into_iter().enumerate() {
        let n: usize = shape.iter().product();
        let arrays = BTreeMap::from([
            ("float32", Array::new(values(n).map(|v| v as f32).collect(), shape.clone()).unwrap()),
            ("float64", Array::new(values(n).map(|v| v as f64).collect(), shape.clone()).unwrap()),
            ("int64", Array::new(values(n).map(|v| v as i64).collect(), shape.clone()).unwrap()),
            ("int32", Array::new(values(n).map(|v| v as i32).collect(), shape.clone()).unwrap()),
            ("uint32", Array::new(values(n).map(|v| v as u32).collect(), shape.clone()).unwrap()),
            ("uint8", Array::new(values(n).map(|v| v as u8).collect(), shape.clone()).unwrap()),
            ("bool", Array::new(vec![true; n], shape.clone()).unwrap()),
        ]);
        for (name, array) in arrays {
            let want = std::fs::read(golden(&format!("write_{name}_{i}.npy"))).unwrap();
            assert!(npy::to_bytes(&array) == want, "{name} {shape:?}");
        }
    }
}

fn error_of(bytes: &[u8]) -> String {
    let e = npy::from_bytes(bytes).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Data);
    e.to_string()
}

/// A version 1 file with this header text and these values.
fn with_header(text: &str, values: &[u8]) -> Vec<u8> {
    [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), values].concat()
}

#[test]
fn what_is_not_numbers_is_refused() {
    let text_of = |name: &str| {
        let path = golden(&format!("{name}.npy"));
        npy::read(&path).unwrap_err().to_string().replace(&path.display().to_string(), "FILE")
    };
    let refused = "text, objects, dates, records and complex numbers are not read, so save numbers with .astype()";
    assert_eq!(
        text_of("text"),
        format!(
            "FILE: npy header \"{{'descr': '<U2', 'fortran_order': False, 'shape': (2,), }}\": expected numbers \
             (f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8) or b1, \"<U2\" came; {refused}"
        )
    );
    assert!(text_of("objects").contains("\"|O\" came") && text_of("complex").contains("\"<c8\" came"));
    assert!(text_of("records").ends_with("the array holds records; save each field as an array of its own"));
    assert_eq!(
        text_of("u8_large"),
        "FILE: npy values: element 1 is 9223372036854775808, which i64 cannot hold; save the array as int64"
    );
    assert_eq!(
        error_of(&with_header("{'descr': '|b1', 'fortran_order': False, 'shape': (1,)}", &[2])),
        "npy values: element 0 is 2, expected a bool of 0 or 1"
    );
}

#[test]
fn damaged_files() {
    let good = std::fs::read(golden("f4.npy")).unwrap();
    assert_eq!(
        error_of(&good[..good.len() - 1]),
        "npy values of shape [2, 3]: expected 24 bytes, only 23 came; the file is truncated, fetch or make it again"
    );
    assert_eq!(
        error_of(&[&good[..], &[0]].concat()),
        "npy values of shape [2, 3]: expected the end after 24 bytes, more came; the header and the data disagree, fetch or make the file \
         again"
    );
    assert_eq!(
        error_of(&good[..20]),
        "npy header: expected 118 bytes, only 10 came; the file is truncated, fetch or make it again"
    );
    assert_eq!(
        error_of(b"PK\x03\x04abcdef"),
        "not a .npy file: expected it to start with \"\\\\x93NUMPY\", \"PK\\\\x03\\\\x04ab\" came"
    );
    assert_eq!(error_of(b"\x93NUMPY\x09\x00"), "npy header: expected version 1, 2 or 3, 9 came");
    assert_eq!(
        error_of(b"\x93NUMPY\x02\x00\xff\xff\xff\xff"),
        "npy header: expected at most 1048576 bytes, it says 4294967295; the header is damaged"
    );
    // 10^18 elements are declared and four bytes follow: an error at once, not an allocation.
    let huge = with_header("{'descr': '<f4', 'fortran_order': True, 'shape': (1000000000, 1000000000)}", &[0; 4]);
    assert_eq!(
        error_of(&huge),
        "npy values of shape [1000000000, 1000000000]: expected 4000000000000000000 bytes, only 4 came; \
         the file is truncated, fetch or make it again"
    );
    let beyond = with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", &[]);
    assert!(error_of(&beyond).ends_with("is larger than any memory; the header is damaged"));
    let of = |text: &str| error_of(&with_header(text, &[]));
    assert_eq!(
        of("{'descr': '<f4', 'shape': (1,)}"),
        "npy header \"{'descr': '<f4', 'shape': (1,)}\": the key fortran_order is missing"
    );
    assert_eq!(
        of("{'descr': '<f4', 'shape': (-1,)}"),
        "npy header \"{'descr': '<f4', 'shape': (-1,)}\": expected an extent before \"-1,)}\"; the header is damaged"
    );
    assert!(of("{'descr' '<f4'}").contains("expected \":\" before \"'<f4'}\""));
    assert!(of("{'other': 1}").contains("expected the keys descr, fortran_order and shape, \"other\" came"));
}

#[test]
fn damaged_archives() {
    let mut bytes = std::fs::read(golden("stored.npz")).unwrap();
    let error_of = |bytes: &[u8]| {
        let e = npz::from_bytes(bytes).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Data);
        e.to_string()
    };
    assert!(error_of(&bytes[..100]).starts_with("not a .npz file: expected a zip archive, but came: "));
    // A flipped bit in the values of x is found by the checksum.
    let at = bytes.windows(4).position(|w| w == 5f32.to_le_bytes()).unwrap();
    bytes[at] ^= 1;
    let text = error_of(&bytes);
    assert!(text.starts_with("entry \"x.npy\": the compressed data are damaged ("), "{text}");
}

proptest! {
    #[test]
    fn write_then_read_gives_the_same_array(
        shape in prop::collection::vec(0usize..5, 0..4),
        bits in prop::collection::vec(any::<u64>(), 64),
    ) {
        let n: usize = shape.iter().product();
        let bits = &bits[..n];
        let arrays = [
            Array::new(bits.iter().map(|&b| b as i64).collect(), shape.clone()).unwrap(),
            Array::new(bits.iter().map(|&b| b as i32).collect(), shape.clone()).unwrap(),
            Array::new(bits.iter().map(|&b| b as u32).collect(), shape.clone()).unwrap(),
            Array::new(bits.iter().map(|&b| b as u8).collect(), shape.clone()).unwrap(),
            Array::new(bits.iter().map(|&b| b % 2 == 1).collect(), shape.clone()).unwrap(),
        ];
        for array in arrays {
            prop_assert_eq!(npy::from_bytes(&npy::to_bytes(&array)).unwrap(), array);
        }
        // NaN is not equal to itself, so floats are compared by their bits.
        let f64s = Array::new(bits.iter().map(|&b| f64::from_bits(b)).collect(), shape.clone()).unwrap();
        let back = npy::from_bytes(&npy::to_bytes(&f64s)).unwrap();
        prop_assert_eq!(back.shape(), &shape[..]);
        prop_assert!(back.slice::<f64>().unwrap().iter().zip(bits).all(|(x, &b)| x.to_bits() == b));
        let f32s = Array::new(bits.iter().map(|&b| f32::from_bits(b as u32)).collect(), shape).unwrap();
        let back = npy::from_bytes(&npy::to_bytes(&f32s)).unwrap();
        prop_assert!(back.slice::<f32>().unwrap().iter().zip(bits).all(|(x, &b)| x.to_bits() == b as u32));
    }
}
