#![no_main]
use wholestep::checkpoint::Weights;

// A weights file is refused or read; what was read is written and read again as the same weights.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok((weights, meta)) = Weights::from_bytes(bytes) else { return };
    let written = weights.to_bytes(&meta).expect("what was read cannot be written");
    let (again, _) = Weights::from_bytes(&written).expect("our own file is refused");
    assert!(again == weights || has_nan(&weights));
});

// NaN is not equal to itself.
fn has_nan(weights: &Weights) -> bool {
    weights.tensors().any(|(_, array)| array.as_slice::<f32>().is_some_and(|v| v.iter().any(|x| x.is_nan())))
}
