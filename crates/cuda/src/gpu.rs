//! Real devices, through the driver that is loaded at run time.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaStream, result, sys,
};
use cudarc::nvrtc::Ptx;

use crate::device::{Address, Device, DeviceError, Driver, Kernel, Launch, MARKS, Recording};

/// The kernels, for every architecture that `build.rs` names.
static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// Sequences of work that the device may interleave: while one is at the end of a kernel, where few
/// blocks are left, another fills it.
const LANES: usize = 2;

/// A waiting thread looks again and again for this long, then sleeps: a short batch is over before a
/// thread has fallen asleep and been woken.
const LOOK_FOR: Duration = Duration::from_micros(300);

/// A GPU of this machine.
struct GpuInfo {
    /// Its place in the driver's order.
    index: usize,
    /// What it calls itself.
    name: String,
    /// Its UUID, as `nvidia-smi -L` prints it.
    uuid: String,
    /// Compute capability, for example (9, 0).
    capability: (i32, i32),
}

struct Gpu {
    name: String,
    multiprocessors: u32,
    groups: bool,
    context: Arc<CudaContext>,
    module: Arc<CudaModule>,
    streams: Vec<Arc<CudaStream>>,
    marks: Vec<CudaEvent>,
    kernels: Mutex<Vec<CudaFunction>>,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn driver(error: result::DriverError) -> DeviceError {
    DeviceError::Driver(error.to_string())
}

fn uuid(bytes: sys::CUuuid) -> String {
    let hex: String = bytes.bytes.iter().map(|b| format!("{b:02x}")).collect();
    let part = |from, to| &hex[from..to];
    format!(
        "GPU-{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}

/// The GPUs of this machine, in the driver's order.
fn gpus() -> Result<Vec<GpuInfo>, DeviceError> {
    // SAFETY: it only tries to load libraries.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::NoDriver);
    }
    let count = CudaContext::device_count().map_err(driver)?;
    (0..usize::try_from(count).unwrap_or(0))
        .map(|index| {
            let context = CudaContext::new(index).map_err(driver)?;
            Ok(GpuInfo {
                index,
                name: context.name().map_err(driver)?,
                uuid: uuid(context.uuid().map_err(driver)?),
                capability: context.compute_capability().map_err(driver)?,
            })
        })
        .collect()
}

impl Device {
    /// Opens the GPU with this index or UUID (`GPU-…` or `MIG-…`, as `nvidia-smi -L` prints it).
    ///
    /// # Errors
    /// [`DeviceError`] when there is no such device or it cannot run the kernels.
    pub fn gpu(wanted: &str) -> Result<Self, DeviceError> {
        let all = gpus()?;
        let Some(info) = all
            .iter()
            .find(|info| info.uuid == wanted || info.index.to_string() == wanted)
        else {
            let found: Vec<_> = all
                .iter()
                .map(|info| format!("{} ({}, {})", info.index, info.name, info.uuid))
                .collect();
            return Err(DeviceError::NoSuchDevice {
                wanted: wanted.to_owned(),
                found: if found.is_empty() {
                    "none".to_owned()
                } else {
                    found.join(", ")
                },
            });
        };
        let (major, minor) = info.capability;
        if major < 8 {
            return Err(DeviceError::TooOld {
                name: info.name.clone(),
                major,
                minor,
            });
        }
        let context = CudaContext::new(info.index).map_err(driver)?;
        // SAFETY: memory is freed only after all lanes were waited for, so no event is needed to keep
        // a lane from using what another has freed.
        unsafe { context.disable_event_tracking() };
        context.set_blocking_synchronize().map_err(driver)?;
        let module = context
            .load_module(Ptx::from_binary(IMAGE.to_vec()))
            .map_err(driver)?;
        let streams = (0..LANES)
            .map(|_| context.new_stream().map_err(driver))
            .collect::<Result<_, _>>()?;
        let flags = sys::CUevent_flags_enum::CU_EVENT_BLOCKING_SYNC;
        let marks = (0..MARKS)
            .map(|_| context.new_event(Some(flags)).map_err(driver))
            .collect::<Result<_, _>>()?;
        let attribute = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = context.attribute(attribute).map_err(driver)?;
        Ok(Self {
            driver: Arc::new(Gpu {
                name: info.name.clone(),
                multiprocessors: u32::try_from(multiprocessors).unwrap_or(1),
                // Hopper has them, its successors something else.
                groups: major == 9,
                context,
                module,
                streams,
                marks,
                kernels: Mutex::default(),
            }),
        })
    }
}

#[derive(Debug)]
struct Graph(CudaGraphBox);

/// The graph with what it needs to be launched from another thread.
struct CudaGraphBox(CudaGraph);

impl std::fmt::Debug for CudaGraphBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CudaGraph")
    }
}

// SAFETY: a graph may be used from any thread, not from several at once; it is not shared.
unsafe impl Send for CudaGraphBox {}

impl Recording for Graph {
    unsafe fn replay(&self) -> Result<(), DeviceError> {
        self.0.0.launch().map_err(driver)
    }
}

impl Driver for Gpu {
    fn name(&self) -> &str {
        &self.name
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn lanes(&self) -> usize {
        self.streams.len()
    }

    fn has_groups(&self) -> bool {
        self.groups
    }

    fn kernel(&self, name: &str, shared: u32) -> Result<Kernel, DeviceError> {
        let function = self.module.load_function(name).map_err(driver)?;
        // More than 48 KB must be asked for.
        function
            .set_attribute(
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                i32::try_from(shared).unwrap_or(i32::MAX),
            )
            .map_err(driver)?;
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        kernels.push(function);
        Ok(Kernel(kernels.len() - 1))
    }

    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError> {
        self.context.bind_to_thread().map_err(driver)?;
        // SAFETY: what is in it is not read before it is written.
        let address = unsafe { result::malloc_sync(bytes.max(1)) };
        address.map(Address).map_err(|error| {
            if error.0 == sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY {
                DeviceError::OutOfMemory { bytes }
            } else {
                driver(error)
            }
        })
    }

    unsafe fn free(&self, address: Address, _bytes: usize) {
        self.context.record_err(self.context.bind_to_thread());
        // SAFETY: the caller got it from `allocate`. A device that fails here has failed for good.
        self.context
            .record_err(unsafe { result::free_sync(address.0) });
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<NonNull<u8>, DeviceError> {
        self.context.bind_to_thread().map_err(driver)?;
        // SAFETY: it has no conditions that bytes could break.
        let memory = unsafe { result::malloc_host(bytes.max(1), 0) }.map_err(driver)?;
        NonNull::new(memory.cast()).ok_or(DeviceError::OutOfMemory { bytes })
    }

    unsafe fn free_pinned(&self, memory: NonNull<u8>, _bytes: usize) {
        self.context.record_err(self.context.bind_to_thread());
        // SAFETY: the caller got it from `allocate_pinned`.
        self.context
            .record_err(unsafe { result::free_host(memory.as_ptr().cast()) });
    }

    unsafe fn copy_in(
        &self,
        lane: usize,
        to: Address,
        from: NonNull<u8>,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        self.context.bind_to_thread().map_err(driver)?;
        // SAFETY: the caller says that it is `bytes` long and stays.
        let from = unsafe { std::slice::from_raw_parts(from.as_ptr(), bytes) };
        // SAFETY: as above, for both sides.
        unsafe { result::memcpy_htod_async(to.0, from, self.streams[lane].cu_stream()) }
            .map_err(driver)
    }

    unsafe fn launch(
        &self,
        lane: usize,
        launch: &Launch,
        args: *const c_void,
    ) -> Result<(), DeviceError> {
        let function = {
            let kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
            kernels[launch.kernel.0].cu_function()
        };
        self.context.bind_to_thread().map_err(driver)?;
        // SAFETY: the caller says that `args` is the one argument that the kernel takes.
        unsafe {
            result::launch_kernel(
                function,
                (launch.grid.0, launch.grid.1, 1),
                (launch.threads, 1, 1),
                launch.shared,
                self.streams[lane].cu_stream(),
                &mut [args.cast_mut()],
            )
        }
        .map_err(driver)
    }

    fn begin_recording(&self, lane: usize) -> Result<bool, DeviceError> {
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.streams[lane].begin_capture(mode).map_err(driver)?;
        Ok(true)
    }

    fn end_recording(&self, lane: usize) -> Result<Box<dyn Recording>, DeviceError> {
        let graph = self.streams[lane]
            .end_capture(sys::CUgraphInstantiate_flags(0))
            .map_err(driver)?
            .ok_or_else(|| DeviceError::Driver("nothing was recorded".to_owned()))?;
        graph.upload().map_err(driver)?;
        Ok(Box::new(Graph(CudaGraphBox(graph))))
    }

    fn mark(&self, lane: usize, mark: usize) -> Result<(), DeviceError> {
        self.marks[mark].record(&self.streams[lane]).map_err(driver)
    }

    #[expect(clippy::disallowed_methods, reason = "a duration within this function")]
    fn wait_for_mark(&self, mark: usize) -> Result<(), DeviceError> {
        let event = &self.marks[mark];
        let begun = Instant::now();
        while begun.elapsed() < LOOK_FOR {
            if event.try_is_complete().map_err(driver)? {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        event.synchronize().map_err(driver)
    }

    fn wait(&self, lane: usize) -> Result<(), DeviceError> {
        self.streams[lane].synchronize().map_err(driver)
    }
}
