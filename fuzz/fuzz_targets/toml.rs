#![no_main]
use wholestep::spec::Model;

// A model file is refused or read; what was read can be written and read again as the same model.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(model) = Model::from_toml(text) else { return };
    if let Ok(text) = model.to_toml() {
        assert_eq!(Model::from_toml(&text).ok().as_ref(), Some(&model));
    }
});
