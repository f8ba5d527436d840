#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = wholestep::data::idx::from_bytes(bytes);
});
