//! A device: memory, copies and launches, in the order they are asked for within a lane.

use std::ffi::c_void;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An address in a device's memory; 0 is none.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) u64);

impl Address {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn plus(self, bytes: usize) -> Self {
        Self(self.0 + to_u64(bytes))
    }
}

/// Why a device did not do something.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no driver, so there is no GPU either, or it is not visible here.
    #[error("no GPU was found: the driver library (libcuda) is not on this machine")]
    NoDriver,
    /// This program was built without the kernels.
    #[error("this program was built without GPU support (feature `cuda`)")]
    NotBuilt,
    /// No device of that index or UUID.
    #[error("there is no GPU {wanted}; found: {found}")]
    NoSuchDevice {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// The kernels are not compiled for such a device.
    #[error("GPU {name} has compute capability {major}.{minor}, 8.0 or later is needed")]
    TooOld {
        /// The device.
        name: String,
        /// Its compute capability.
        major: i32,
        /// Its compute capability.
        minor: i32,
    },
    /// The kernels do not compute such a model.
    #[error("the GPU kernels do not compute a model with {what} {got}: {want}")]
    Unsupported {
        /// The size that is not supported.
        what: &'static str,
        /// What it is.
        got: usize,
        /// What it may be.
        want: &'static str,
    },
    /// There is not enough memory left.
    #[error("the GPU has no room for {bytes} bytes more")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The driver reported an error. Faults such as an uncorrectable memory error come this way, and
    /// the device then answers nothing else until the process ends.
    #[error("the GPU driver: {0}")]
    Driver(String),
}

/// An index into a driver's table of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel(pub(crate) usize);

/// A kernel with the size of its grid.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(any(feature = "gpu", feature = "emulation")),
    expect(dead_code, reason = "there is no device to launch on")
)]
pub(crate) struct Launch {
    pub(crate) kernel: Kernel,
    pub(crate) grid: (u32, u32),
    pub(crate) threads: u32,
    pub(crate) shared: u32,
}

/// A sequence of launches that can be repeated at the cost of one.
pub(crate) trait Recording: Debug + Send {
    /// # Safety
    /// All memory that the recorded launches use must still be there.
    unsafe fn replay(&self) -> Result<(), DeviceError>;
}

/// Places in lanes that can be waited for.
#[cfg(feature = "gpu")]
pub(crate) const MARKS: usize = 8;

/// What differs between a GPU and the emulation of one.
///
/// Work of one lane is done in order; lanes do not wait for each other.
pub(crate) trait Driver: Debug + Send + Sync {
    fn name(&self) -> &str;
    fn multiprocessors(&self) -> u32;
    fn lanes(&self) -> usize;
    /// Whether groups of warps multiply together (Hopper's wgmma).
    fn has_groups(&self) -> bool;

    fn kernel(&self, name: &str, shared: u32) -> Result<Kernel, DeviceError>;

    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError>;
    /// # Safety
    /// `address` is of [`allocate`](Self::allocate) with the same size and nothing uses it any more.
    unsafe fn free(&self, address: Address, bytes: usize);

    /// Memory of the host that the device can reach at the same address.
    fn allocate_pinned(&self, bytes: usize) -> Result<NonNull<u8>, DeviceError>;
    /// # Safety
    /// As for [`free`](Self::free).
    unsafe fn free_pinned(&self, memory: NonNull<u8>, bytes: usize);

    /// # Safety
    /// Both sides must have `bytes` bytes, and stay untouched until the lane has come that far.
    unsafe fn copy_in(
        &self,
        lane: usize,
        to: Address,
        from: NonNull<u8>,
        bytes: usize,
    ) -> Result<(), DeviceError>;

    /// # Safety
    /// `args` must be what the kernel takes, and its addresses and sizes be right.
    unsafe fn launch(
        &self,
        lane: usize,
        launch: &Launch,
        args: *const c_void,
    ) -> Result<(), DeviceError>;

    /// Begins to record what the lane is asked for instead of doing it; `false` where that is not
    /// possible.
    fn begin_recording(&self, lane: usize) -> Result<bool, DeviceError>;
    fn end_recording(&self, lane: usize) -> Result<Box<dyn Recording>, DeviceError>;

    /// Marks how far the lane has been asked; `mark` is below `MARKS`.
    fn mark(&self, lane: usize, mark: usize) -> Result<(), DeviceError>;
    /// Waits until the lane that was last marked so has come there.
    fn wait_for_mark(&self, mark: usize) -> Result<(), DeviceError>;

    /// Waits until the lane has done all it was asked for.
    fn wait(&self, lane: usize) -> Result<(), DeviceError>;
}

/// A device that is open.
#[derive(Clone, Debug)]
pub struct Device {
    pub(crate) driver: Arc<dyn Driver>,
}

impl Device {
    /// What the device calls itself.
    #[must_use]
    pub fn name(&self) -> &str {
        self.driver.name()
    }

    /// Processors that run blocks at the same time.
    #[must_use]
    pub fn multiprocessors(&self) -> usize {
        usize::try_from(self.driver.multiprocessors()).unwrap_or(1)
    }

    /// Lanes: sequences of work that do not wait for each other.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.driver.lanes()
    }

    /// Takes memory for `count` numbers. What is in it is not defined.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] or [`DeviceError::Driver`].
    pub(crate) fn buffer<T>(&self, count: usize) -> Result<Buffer<T>, DeviceError> {
        let bytes = count * size_of::<T>();
        Ok(Buffer {
            address: self.driver.allocate(bytes)?,
            driver: Arc::clone(&self.driver),
            count,
            kind: PhantomData,
        })
    }

    /// Takes memory for `numbers` and copies them there.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] or [`DeviceError::Driver`].
    pub(crate) fn upload<T: IntoBytes + Immutable>(
        &self,
        numbers: &[T],
    ) -> Result<Buffer<T>, DeviceError> {
        let buffer = self.buffer(numbers.len())?;
        let bytes = numbers.as_bytes();
        // A piece at a time, so that little memory is pinned.
        let mut pinned: Pinned<u8> = self.pinned(bytes.len().clamp(1, 1 << 20))?;
        let mut at = 0;
        for piece in bytes.chunks(pinned.as_slice().len()) {
            pinned.as_mut_slice()[..piece.len()].copy_from_slice(piece);
            // SAFETY: both have that many bytes, and the lane is waited for before either is used.
            unsafe {
                self.driver
                    .copy_in(0, buffer.address.plus(at), pinned.memory, piece.len())?;
            }
            self.driver.wait(0)?;
            at += piece.len();
        }
        Ok(buffer)
    }

    /// Takes memory of the host that the device can reach, set to zero.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] or [`DeviceError::Driver`].
    pub(crate) fn pinned<T: FromBytes + IntoBytes + Immutable>(
        &self,
        count: usize,
    ) -> Result<Pinned<T>, DeviceError> {
        let bytes = count * size_of::<T>();
        let memory = self.driver.allocate_pinned(bytes)?;
        // SAFETY: it was just taken, `bytes` long.
        unsafe {
            memory.as_ptr().write_bytes(0, bytes);
        }
        Ok(Pinned {
            driver: Arc::clone(&self.driver),
            memory,
            count,
            kind: PhantomData,
        })
    }

    pub(crate) fn mark(&self, lane: usize, mark: usize) -> Result<(), DeviceError> {
        self.driver.mark(lane, mark)
    }

    pub(crate) fn wait_for_mark(&self, mark: usize) -> Result<(), DeviceError> {
        self.driver.wait_for_mark(mark)
    }

    /// Waits until lane `lane` has done all it was asked for.
    ///
    /// # Errors
    /// [`DeviceError::Driver`]: also for what went wrong in the work that was waited for.
    pub(crate) fn wait(&self, lane: usize) -> Result<(), DeviceError> {
        self.driver.wait(lane)
    }
}

/// Memory of a device.
#[derive(Debug)]
pub(crate) struct Buffer<T> {
    driver: Arc<dyn Driver>,
    address: Address,
    count: usize,
    kind: PhantomData<T>,
}

impl<T> Buffer<T> {
    pub(crate) fn address(&self) -> Address {
        self.address
    }

    /// Numbers in it.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.count * size_of::<T>()
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        for lane in 0..self.driver.lanes() {
            // A device that fails here has failed for good; there is nobody to tell.
            drop(self.driver.wait(lane));
        }
        // SAFETY: taken with this size, and all lanes are done.
        unsafe { self.driver.free(self.address, self.bytes()) }
    }
}

/// Memory of the host that a device can reach.
#[derive(Debug)]
pub(crate) struct Pinned<T> {
    driver: Arc<dyn Driver>,
    memory: NonNull<u8>,
    count: usize,
    kind: PhantomData<T>,
}

// SAFETY: it owns its memory like a vector.
unsafe impl<T: Send> Send for Pinned<T> {}

impl<T: FromBytes + IntoBytes + Immutable> Pinned<T> {
    /// What is in it. To be read when the lane that writes it was waited for.
    pub(crate) fn as_slice(&self) -> &[T] {
        // SAFETY: `count` numbers of a kind for which all bytes are sound, aligned for any.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.count) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().cast(), self.count) }
    }

    pub(crate) fn memory(&self) -> NonNull<u8> {
        self.memory
    }

    /// Where the device finds it.
    pub(crate) fn address(&self) -> Address {
        Address(to_u64(self.memory.as_ptr().addr()))
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        for lane in 0..self.driver.lanes() {
            drop(self.driver.wait(lane));
        }
        // SAFETY: taken with this size, and all lanes are done.
        unsafe {
            self.driver
                .free_pinned(self.memory, self.count * size_of::<T>());
        }
    }
}

pub(crate) fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
