#![no_main]
use wholestep::data::npy;

// What was read is written and read again: the same type and shape must come back, and the same bytes.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(array) = npy::from_bytes(bytes) {
        let written = npy::to_bytes(&array);
        let again = npy::from_bytes(&written).expect("our own file is refused");
        assert_eq!((again.dtype(), again.shape()), (array.dtype(), array.shape()));
        assert!(npy::to_bytes(&again) == written);
    }
});
