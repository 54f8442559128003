//! Encoder kernels for CUDA devices, and the devices they run on.
//!
//! The kernels are CUDA C++ in `kernels/`. The same sources are compiled for GPUs (feature `gpu`) and,
//! with `kernels/emulation.hpp` in place of the device, by the C++ compiler of the host (feature
//! `emulation`), so that their index arithmetic, their barriers and their copies are tested where there
//! is no GPU. This crate is the only one that knows addresses of a device: what it exports checks sizes
//! against buffers before anything is launched.
//!
//! A row of a result depends on its own sequence alone, to the last bit: every tile size sums up in the
//! same order, and attention is cut by the length of its own sequence.

mod arguments;
mod chunk;
mod device;
#[cfg(feature = "emulation")]
mod emulated;
mod encoder;
#[cfg(feature = "gpu")]
mod gpu;
mod kernels;
#[cfg(all(test, feature = "emulation"))]
mod tests;
mod weights;

pub use device::{Device, DeviceError};
#[cfg(feature = "emulation")]
pub use emulated::Copies;
pub use encoder::{Encoder, HostLayer, HostLinear, HostNorm, HostWeights, Shape, Tuning};
pub use weights::{Activation, Numbers};

#[cfg(not(feature = "gpu"))]
impl Device {
    /// Without the feature `gpu` there is none.
    ///
    /// # Errors
    /// [`DeviceError::NotBuilt`], always.
    pub fn gpu(_wanted: &str) -> Result<Self, DeviceError> {
        Err(DeviceError::NotBuilt)
    }
}
