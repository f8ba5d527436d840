#![no_main]
use wholestep::data::images::{Channels, from_bytes};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = from_bytes(bytes, Channels::Rgb);
});
