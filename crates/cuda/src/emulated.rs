//! The emulation of a device: the kernels as ordinary C++, the device's memory that of the process.

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use crate::device::{Address, Device, DeviceError, Driver, Kernel, Launch, Recording, to_u64};

unsafe extern "C" {
    fn emulation_launch(
        name: *const c_char,
        grid_x: u32,
        grid_y: u32,
        threads: u32,
        shared: usize,
        late_copies: c_int,
        args: *const c_void,
    ) -> c_int;
    #[cfg(test)]
    static emulation_sizes: [usize; 7];
}

/// When a copy to shared memory happens, within what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// When it is begun.
    Early,
    /// When it is waited for.
    Late,
}

#[derive(Debug)]
struct Emulated {
    copies: Copies,
    groups: bool,
    kernels: Mutex<Vec<CString>>,
}

impl Device {
    /// An emulated device, for tests: a million times slower than a real one, and the same numbers up
    /// to the rounding of `exp` and division. With `groups` it multiplies as Hopper does, else as
    /// Ampere.
    #[must_use]
    pub fn emulated(copies: Copies, groups: bool) -> Self {
        Self {
            driver: std::sync::Arc::new(Emulated {
                copies,
                groups,
                kernels: Mutex::default(),
            }),
        }
    }
}

/// Lines of 128 bytes, like those of a real device.
fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes.max(1), 128).expect("a test's buffer is not that large")
}

impl Driver for Emulated {
    fn name(&self) -> &str {
        "emulated GPU"
    }

    fn multiprocessors(&self) -> u32 {
        4
    }

    fn lanes(&self) -> usize {
        1
    }

    fn has_groups(&self) -> bool {
        self.groups
    }

    fn kernel(&self, name: &str, _shared: u32) -> Result<Kernel, DeviceError> {
        let name = CString::new(name).map_err(|error| DeviceError::Driver(error.to_string()))?;
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        kernels.push(name);
        Ok(Kernel(kernels.len() - 1))
    }

    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError> {
        let memory = self.allocate_pinned(bytes)?;
        // SAFETY: just taken, `bytes` long. Not a number in every type, so that what nobody wrote shows.
        unsafe { memory.as_ptr().write_bytes(0xff, bytes) };
        Ok(Address(to_u64(memory.as_ptr().expose_provenance())))
    }

    unsafe fn free(&self, address: Address, bytes: usize) {
        let at = usize::try_from(address.0).expect("it came from a pointer");
        // SAFETY: the caller got it from `allocate`, with this size.
        unsafe { dealloc(std::ptr::with_exposed_provenance_mut(at), layout(bytes)) }
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<NonNull<u8>, DeviceError> {
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc(layout(bytes)) };
        NonNull::new(memory).ok_or(DeviceError::OutOfMemory { bytes })
    }

    unsafe fn free_pinned(&self, memory: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller got it from `allocate_pinned`, with this size.
        unsafe { dealloc(memory.as_ptr(), layout(bytes)) }
    }

    unsafe fn copy_in(
        &self,
        _lane: usize,
        to: Address,
        from: NonNull<u8>,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        let to = usize::try_from(to.0).expect("it came from a pointer");
        // SAFETY: the caller says that both have that many bytes; one is the device's, one is not.
        unsafe {
            std::ptr::with_exposed_provenance_mut::<u8>(to)
                .copy_from_nonoverlapping(from.as_ptr(), bytes);
        }
        Ok(())
    }

    unsafe fn launch(
        &self,
        _lane: usize,
        launch: &Launch,
        args: *const c_void,
    ) -> Result<(), DeviceError> {
        let name = {
            let kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
            kernels[launch.kernel.0].clone()
        };
        // SAFETY: the caller says that `args` is what the kernel takes.
        let status = unsafe {
            emulation_launch(
                name.as_ptr(),
                launch.grid.0,
                launch.grid.1,
                launch.threads,
                usize::try_from(launch.shared).unwrap_or(usize::MAX),
                c_int::from(self.copies == Copies::Late),
                args,
            )
        };
        match status {
            0 => Ok(()),
            1 => Err(DeviceError::Driver(format!("there is no kernel {name:?}"))),
            _ => Err(DeviceError::Driver(format!(
                "{name:?} does not run with {} threads",
                launch.threads
            ))),
        }
    }

    fn begin_recording(&self, _lane: usize) -> Result<bool, DeviceError> {
        Ok(false)
    }

    fn end_recording(&self, _lane: usize) -> Result<Box<dyn Recording>, DeviceError> {
        Err(DeviceError::Driver("nothing was recorded".to_owned()))
    }

    fn mark(&self, _lane: usize, _mark: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    fn wait_for_mark(&self, _mark: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    fn wait(&self, _lane: usize) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// Whether Rust and C++ agree about the sizes of what kernels are called with.
#[cfg(test)]
pub(crate) fn sizes_agree() -> bool {
    use crate::arguments::{Attention, AttentionTile, Embed, Header, Linear, Norm, Pool};
    // SAFETY: a constant of the emulation, never written.
    let theirs = unsafe { emulation_sizes };
    theirs
        == [
            size_of::<Header>(),
            size_of::<Linear>(),
            size_of::<AttentionTile>(),
            size_of::<Attention>(),
            size_of::<Embed>(),
            size_of::<Norm>(),
            size_of::<Pool>(),
        ]
}

/// What is in a buffer of an emulated device.
#[cfg(test)]
pub(crate) fn contents<T: Clone>(buffer: &crate::device::Buffer<T>) -> Vec<T> {
    let at = usize::try_from(buffer.address().0).expect("it came from a pointer");
    // SAFETY: the emulation's addresses are pointers to that many numbers, and nothing is under way.
    unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(at), buffer.len()) }
        .to_vec()
}
