//! Configuration: any file and any environment.
//!
//! Input: parts separated by the byte 0. The first is the file, then name and value of a variable
//! by turns. A name gets `EMBEDRING_` put before it, or the fuzzer would spend its time on spelling
//! that.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use embedring_config::{Config, ConfigError, Overrides};
use embedring_fuzz::scratch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.split(|byte| *byte == 0);
    let file = parts.next().unwrap_or_default();
    let mut env = Vec::new();
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        let name = [b"EMBEDRING_", name].concat();
        env.push((OsString::from_vec(name), OsString::from_vec(value.to_vec())));
    }
    let path = scratch().join("config.toml");
    match load(&path, file, env) {
        Ok(mut config) => {
            config.source = None;
            let toml = config.to_toml();
            let mut again = load(&path, toml.as_bytes(), Vec::new())
                .unwrap_or_else(|error| panic!("{error}\n{toml}"));
            again.source = None;
            assert_eq!(again, config, "{toml}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

fn load(path: &Path, file: &[u8], env: Vec<(OsString, OsString)>) -> Result<Config, ConfigError> {
    std::fs::write(path, file).expect("the scratch folder can be written");
    // The file is named by a flag, which goes before `EMBEDRING_CONFIG`.
    let flags = Overrides {
        config: Some(path.to_owned()),
        ..Overrides::default()
    };
    Config::load(&flags, env)
}
