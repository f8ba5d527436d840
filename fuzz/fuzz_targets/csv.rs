#![no_main]
use wholestep::data::csv::{Column, Csv, Missing};

// The first byte chooses how the rest is read.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&how, bytes)) = bytes.split_first() else { return };
    let mut csv = if how & 1 == 0 { Csv::new() } else { Csv::tsv().no_header().skip_lines(1) };
    csv = match how >> 1 & 3 {
        0 => csv.label(Column::Last),
        1 => csv.one_hot(0).target(Column::Last),
        2 => csv.index(0).int(1),
        3.. => csv,
    };
    csv = match how >> 3 & 3 {
        0 => csv.missing(Missing::DropRow),
        1 => csv.missing(Missing::Fill(0.5)),
        2.. => csv,
    };
    if let Ok(table) = csv.from_bytes(bytes) {
        let _ = table.into_dataset();
    }
});
