#![no_main]
use wholestep::spec::Model;

// A model file is refused or read; what was read can be written and read again as the same model, and be built or refused.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for read in [Model::from_toml as fn(&str) -> wholestep::Result<Model>, Model::from_json] {
        let Ok(model) = read(text) else { continue };
        if let Ok(text) = model.to_toml() {
            assert_eq!(Model::from_toml(&text).ok().as_ref(), Some(&model));
        }
        let _ = model.summary();
    }
});
