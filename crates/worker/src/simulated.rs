//! A device that is not there: it takes as long for a batch as a table of costs says, and sleeps.
//!
//! For tests of several devices on a machine with few cores, and for planning with the costs of a device
//! that was measured elsewhere. What it answers says so: the device is called `simulated`, and rows
//! without a model have the precision `simulated`.

mod table;

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use embedring_ipc::clock::{now_ns, sleep_until_ns};
use embedring_model::{Backend, BackendError, BackendInfo, PackedBatch};

pub use table::{CostTable, CostTableError, CostTableProblem};

/// What a simulated device is called, and where its costs come from.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedDevice {
    /// Its name, `simulated` or `simulated:NAME`.
    pub device: String,
    /// What its batches cost.
    pub costs: Costs,
}

/// Where the costs of a simulated device come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Costs {
    /// From the configuration.
    Fixed(CostTable),
    /// From a file, read again whenever it has changed: so a device can be made slower while it runs.
    File(PathBuf),
}

impl Costs {
    /// The costs as they are now.
    ///
    /// # Errors
    /// When the file can not be read or holds no table.
    pub fn read(&self) -> Result<CostTable, CostTableError> {
        match self {
            Self::Fixed(table) => Ok(*table),
            Self::File(path) => CostTable::read(path),
        }
    }
}

/// Time between two looks at the file of a table.
const LOOK_EVERY_NS: u64 = 20_000_000;

/// Gives the rows of another backend, and takes as long as the table says.
///
/// Times are kept by absolute deadlines: a batch ends at its beginning plus its cost, however long the rows
/// took to make, and what a wake-up came late is taken off the next batch, so that a busy host does not
/// make the device slower on average. Rows that take longer than the table allows make it slower: with a
/// real model behind it, only devices slower than this machine can be simulated.
pub(crate) struct Simulated {
    rows: Box<dyn Backend>,
    info: BackendInfo,
    costs: Costs,
    table: CostTable,
    changed: Option<Stamp>,
    looked_ns: u64,
    late_ns: u64,
    batches: u64,
}

/// At most this part of a batch is taken off for earlier lateness.
const LATE_PART_MAX: u64 = 4;

impl Simulated {
    /// # Errors
    /// When there is no table.
    pub(crate) fn new(
        device: &SimulatedDevice,
        rows: Box<dyn Backend>,
    ) -> Result<Self, CostTableError> {
        let info = BackendInfo {
            device: device.device.clone(),
            ..rows.info().clone()
        };
        Ok(Self {
            rows,
            info,
            table: device.costs.read()?,
            changed: changed(&device.costs),
            costs: device.costs.clone(),
            looked_ns: 0,
            late_ns: 0,
            batches: 0,
        })
    }

    /// Reads the table again when its file has changed. One that is no table leaves the old one.
    fn look_at_table(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.looked_ns) < LOOK_EVERY_NS {
            return;
        }
        self.looked_ns = now_ns;
        let changed = changed(&self.costs);
        if changed == self.changed {
            return;
        }
        self.changed = changed;
        match self.costs.read() {
            Ok(table) => {
                tracing::info!(?table, "the simulated device has other costs now");
                self.table = table;
            }
            Err(error) => {
                tracing::warn!(%error, "the simulated device keeps its costs");
            }
        }
    }
}

/// What tells a file from the one that was there before: two may be written within one tick of the file
/// system's clock, but then the new one has another number or size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    number: u64,
    size: u64,
    written: (i64, i64),
}

/// The file as it is now; nothing where there is none.
fn changed(costs: &Costs) -> Option<Stamp> {
    match costs {
        Costs::Fixed(_) => None,
        Costs::File(path) => path.metadata().ok().map(|file| Stamp {
            number: file.ino(),
            size: file.size(),
            written: (file.mtime(), file.mtime_nsec()),
        }),
    }
}

impl Backend for Simulated {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn run(&mut self, batch: &PackedBatch<'_>, pooled: &mut [f32]) -> Result<(), BackendError> {
        let begun_ns = now_ns();
        self.look_at_table(begun_ns);
        self.batches += 1;
        let lengths = batch.sequences().map(<[u32]>::len);
        let cost_ns = self.table.batch_ns(lengths);
        let ran = if self.table.fails(self.batches) {
            Err(BackendError::Compute("the table says that it fails".into()))
        } else {
            self.rows.run(batch, pooled)
        };
        let sooner_ns = self.late_ns.min(cost_ns / LATE_PART_MAX);
        let until_ns = begun_ns + cost_ns - sooner_ns;
        sleep_until_ns(until_ns);
        self.late_ns = (self.late_ns - sooner_ns) + now_ns().saturating_sub(until_ns);
        // What a stopped process missed is not made good by being fast for a minute.
        self.late_ns = self.late_ns.min(cost_ns);
        ran
    }
}

#[cfg(test)]
mod tests {
    use embedring_model::NullBackend;

    use super::*;

    fn device(costs: Costs) -> Simulated {
        let device = SimulatedDevice {
            device: "simulated:x".to_owned(),
            costs,
        };
        Simulated::new(&device, Box::new(NullBackend::new(8, 512))).unwrap()
    }

    fn run(device: &mut Simulated, ids: &[u32]) -> Result<Vec<f32>, BackendError> {
        let mut pooled = vec![0.0; 8];
        let offsets = [0, ids.len()];
        device.run(&PackedBatch::new(ids, &offsets).unwrap(), &mut pooled)?;
        Ok(pooled)
    }

    fn fixed(ns_per_batch: u32) -> CostTable {
        CostTable::from_costs(f64::from(ns_per_batch), 1.0, 0.0)
    }

    #[test]
    fn rows_are_those_of_the_backend_and_take_their_time() {
        let mut device = device(Costs::Fixed(fixed(2_000_000)));
        assert_eq!(device.info().device, "simulated:x");
        let mut expected = vec![0.0; 8];
        NullBackend::row(&[1, 2, 3], &mut expected);
        let begun_ns = now_ns();
        for _ in 0..10 {
            assert_eq!(run(&mut device, &[1, 2, 3]).unwrap(), expected);
        }
        // Never sooner than the table allows, lateness that was made good included.
        let took_ns = now_ns() - begun_ns;
        assert!(took_ns >= 10 * 2_000_000, "{took_ns}");
    }

    #[test]
    fn a_changed_file_is_followed_and_a_bad_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.json");
        let write = |text: &str| {
            let new = dir.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        let table = |fail_every: u64| {
            format!(
                r#"{{"version":1,"fail_every":{fail_every},"fit":{{"ns_per_batch":1,"ns_per_token":1,"ns_per_square":0}}}}"#
            )
        };
        write(&table(0));
        let mut device = device(Costs::File(path.clone()));
        assert!(run(&mut device, &[1]).is_ok());
        // The watchdog of the test runner ends a wait that never comes true.
        let run_until = |device: &mut Simulated, fails: bool| {
            while run(device, &[1]).is_err() != fails {
                std::thread::yield_now();
            }
        };
        write(&table(1));
        run_until(&mut device, true);
        let seen = device.changed;
        write("{}");
        while device.changed == seen {
            assert!(run(&mut device, &[1]).is_err());
        }
        assert!(run(&mut device, &[1]).is_err());
        write(&table(0));
        run_until(&mut device, false);
    }
}
