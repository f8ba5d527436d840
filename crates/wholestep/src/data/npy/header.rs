//! The header of a `.npy` file, a Python dictionary as text. Takes a reader, gives type, orders and shape. Never
//! evaluates anything: it knows the one form that NumPy writes.
//!
//! Format: NumPy Enhancement Proposal 1 and `numpy.lib.format`.

use std::io::Read;

use crate::Result;
use crate::data::bytes::{data_error, read_exactly};

/// NumPy writes a few hundred bytes at most; the length field could say four gigabytes.
const MAX_HEADER_BYTES: usize = 1 << 20;

/// NumPy arrays have at most 64 axes.
const MAX_AXES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    F2,
    F4,
    F8,
    I1,
    I2,
    I4,
    I8,
    U1,
    U2,
    U4,
    U8,
    Bool,
}

impl Kind {
    pub fn size_bytes(self) -> usize {
        match self {
            Kind::I1 | Kind::U1 | Kind::Bool => 1,
            Kind::F2 | Kind::I2 | Kind::U2 => 2,
            Kind::F4 | Kind::I4 | Kind::U4 => 4,
            Kind::F8 | Kind::I8 | Kind::U8 => 8,
        }
    }
}

#[derive(Debug, PartialEq)]
pub(super) struct Header {
    pub kind: Kind,
    pub big_endian: bool,
    pub fortran_order: bool,
    pub shape: Vec<usize>,
}

/// Reads up to the first byte of the values.
pub(super) fn read(reader: &mut impl Read) -> Result<Header> {
    let start = read_exactly(reader, 8, "npy header")?;
    if start[..6] != *b"\x93NUMPY" {
        return Err(data_error(format!(
            "not a .npy file: expected it to start with {:?}, {:?} came",
            "\\x93NUMPY",
            start[..6].escape_ascii().to_string()
        )));
    }
    let n_length_bytes = match start[6] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(data_error(format!("npy header: expected version 1, 2 or 3, {version} came"))),
    };
    let length = read_exactly(reader, n_length_bytes, "npy header")?;
    let n_bytes = length.iter().rev().fold(0usize, |n, &b| n << 8 | usize::from(b));
    if n_bytes > MAX_HEADER_BYTES {
        return Err(data_error(format!(
            "npy header: expected at most {MAX_HEADER_BYTES} bytes, it says {n_bytes}; the header is damaged"
        )));
    }
    let bytes = read_exactly(reader, n_bytes, "npy header")?;
    // Names of record fields may be Latin-1 or UTF-8, but records are refused; all the rest is ASCII.
    let text = String::from_utf8_lossy(&bytes);
    dictionary(text.trim()).map_err(|e| e.context(format!("npy header {:?}", shortened(text.trim()))))
}

fn shortened(text: &str) -> String {
    text.chars().take(120).collect()
}

/// The dictionary with its three keys in any order.
fn dictionary(text: &str) -> Result<Header> {
    let mut rest = Cursor(text);
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    rest.expect("{")?;
    while !rest.take("}") {
        match rest.string()? {
            "descr" => {
                rest.expect(":")?;
                descr = Some(kind(rest.descr()?)?);
            }
            "fortran_order" => {
                rest.expect(":")?;
                fortran_order = Some(rest.boolean()?);
            }
            "shape" => {
                rest.expect(":")?;
                shape = Some(rest.shape()?);
            }
            key => return Err(data_error(format!("expected the keys descr, fortran_order and shape, {key:?} came"))),
        }
        if !rest.take(",") {
            rest.expect("}")?;
            break;
        }
    }
    let missing = |key| data_error(format!("the key {key} is missing"));
    let (kind, big_endian) = descr.ok_or_else(|| missing("descr"))?;
    let fortran_order = fortran_order.ok_or_else(|| missing("fortran_order"))?;
    Ok(Header { kind, big_endian, fortran_order, shape: shape.ok_or_else(|| missing("shape"))? })
}

fn kind(descr: &str) -> Result<(Kind, bool)> {
    let big_endian = descr.starts_with('>');
    let name = descr.strip_prefix(['<', '>', '|', '=']).unwrap_or(descr);
    let kind = match name {
        "f2" => Kind::F2,
        "f4" => Kind::F4,
        "f8" => Kind::F8,
        "i1" => Kind::I1,
        "i2" => Kind::I2,
        "i4" => Kind::I4,
        "i8" => Kind::I8,
        "u1" => Kind::U1,
        "u2" => Kind::U2,
        "u4" => Kind::U4,
        "u8" => Kind::U8,
        "b1" | "?" => Kind::Bool,
        _ => {
            return Err(data_error(format!(
                "expected numbers (f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8) or b1, {descr:?} came; \
                 text, objects, dates, records and complex numbers are not read, so save numbers with .astype()"
            )));
        }
    };
    Ok((kind, big_endian))
}

/// What is left of the text. Each method passes white space, then takes its piece.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn take(&mut self, token: &str) -> bool {
        self.0 = self.0.trim_start();
        match self.0.strip_prefix(token) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        if self.take(token) {
            return Ok(());
        }
        Err(data_error(format!("expected {token:?} before {:?}; the header is damaged", shortened(self.0))))
    }

    fn string(&mut self) -> Result<&'a str> {
        let quote = if self.take("'") { '\'' } else { self.expect("\"").map(|()| '"')? };
        let Some((text, rest)) = self.0.split_once(quote) else {
            return Err(data_error("a string does not end; the header is damaged"));
        };
        self.0 = rest;
        Ok(text)
    }

    /// The type string; a list stands for a record type.
    fn descr(&mut self) -> Result<&'a str> {
        if self.take("[") {
            return Err(data_error("the array holds records; save each field as an array of its own"));
        }
        self.string()
    }

    fn boolean(&mut self) -> Result<bool> {
        if self.take("True") { Ok(true) } else { self.expect("False").map(|()| false) }
    }

    fn shape(&mut self) -> Result<Vec<usize>> {
        let mut shape = Vec::new();
        self.expect("(")?;
        while !self.take(")") {
            self.0 = self.0.trim_start();
            let n_digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
            let (digits, rest) = self.0.split_at(n_digits);
            let extent = digits.parse().map_err(|_| {
                data_error(format!("expected an extent before {:?}; the header is damaged", shortened(self.0)))
            })?;
            shape.push(extent);
            if shape.len() > MAX_AXES {
                return Err(data_error(format!("expected at most {MAX_AXES} axes; the header is damaged")));
            }
            // Python 2 wrote `L` behind long integers.
            self.0 = rest.strip_prefix('L').unwrap_or(rest);
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(shape)
    }
}

/// Everything before the values, byte for byte as `numpy.save` writes it: version 1, padded so that the values start
/// at a multiple of 64.
pub(super) fn text(descr: &str, shape: &[usize]) -> Vec<u8> {
    let extents: Vec<String> = shape.iter().map(usize::to_string).collect();
    let extents = if shape.len() == 1 { format!("{},", extents[0]) } else { extents.join(", ") };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
    // NumPy leaves room for the first extent to grow to 20 digits, so that a file can be appended to in place.
    if let Some(first) = shape.first() {
        text.push_str(&" ".repeat(21usize.saturating_sub(first.to_string().len())));
    }
    // Magic, version and length take 10 bytes, the final line break one.
    let n_padding = 64 - (10 + text.len() + 1) % 64;
    text.push_str(&" ".repeat(n_padding));
    text.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    // 64 axes of 20 digits stay far below the 65,535 bytes of version 1.
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.into_bytes());
    out
}
