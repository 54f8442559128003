//! The configuration of embedring: one TOML file, the environment and a few flags, read once at
//! start into a [`Config`] that needs no further checks.
//!
//! The decision behind it: what the file says (`Raw`, all optional, strings and integers) and what
//! programs use ([`Config`], complete, typed, in range) are two sets of types. The keys, their
//! text and their types are written only in `Raw`, their defaults and ranges only in `bounds`;
//! checks, variables, messages and `docs/config.md` are all derived from these, so that none of
//! them can say something else than the others. Values are checked one by one as they come in,
//! because only then is it known that line 7 of a file, or a certain variable, is to blame.
//!
//! ```
//! use embedring_config::{Config, Overrides};
//!
//! let dir = tempfile::tempdir()?;
//! let file = dir.path().join("config.toml");
//! std::fs::write(&file, "[workers.cpu]\nthreads = 2\n")?;
//! let flags = Overrides { config: Some(file), ..Overrides::default() };
//!
//! let config = Config::load(&flags, [("EMBEDRING_INSTANCE", "search")])?;
//! assert_eq!(config.workers["cpu"].threads, 2);
//! assert_eq!(config.instance, "search");
//!
//! let error = Config::load(&flags, [("EMBEDRING_WORKERS__CPU__SPIN_US", "-1")]).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "EMBEDRING_WORKERS__CPU__SPIN_US: workers.cpu.spin_us is -1; allowed: 0 to 1000000"
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod raw;

mod bounds;
mod bytes;
mod config;
mod convert;
mod device;
mod error;

mod schema;

mod check;
mod closest;
mod file;
mod layers;

mod reference;

#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use bounds::MAX_WORKERS;
pub use config::{
    BackendKind, BatchPolicyKind, Config, KernelsKind, Limits, Log, LogFormat, Model, Overrides,
    PoolingKind, PrecisionKind, Runtime, Scheduler, Simulated, Supervisor, TimeModelKind, WaitKind,
    Worker,
};
pub use device::{Device, Gpu};
pub use error::{ConfigError, Origin};
pub use reference::reference_markdown;
