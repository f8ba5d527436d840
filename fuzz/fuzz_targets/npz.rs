#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = wholestep::data::npz::from_bytes(bytes);
});
