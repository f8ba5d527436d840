#![no_main]
use wholestep::checkpoint::Weights;

// A weights file is refused or read; what was read is written and read again as the same weights, which give the same bytes.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok((weights, meta)) = Weights::from_bytes(bytes) else { return };
    let written = weights.to_bytes(&meta).expect("what was read cannot be written");
    let (again, meta) = Weights::from_bytes(&written).expect("our own file is refused");
    assert!(again.to_bytes(&meta).expect("what was read cannot be written") == written);
});
