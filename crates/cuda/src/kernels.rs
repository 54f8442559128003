//! The kernels as safe functions: sizes are checked against the buffers before anything is launched.

use std::ffi::c_void;

use crate::arguments;
use crate::chunk::{Bound, Staging};
use crate::device::{Address, Buffer, Device, DeviceError, Kernel, Launch, Pinned, Recording};
use crate::weights::{Activation, Linear, Norm, Numbers, Relative, Tables};

/// A lane and the chunk that is in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work<'a> {
    /// The lane.
    pub(crate) lane: usize,
    /// Where the chunk is.
    pub(crate) staging: &'a Staging,
    /// What it may hold at most.
    pub(crate) bound: Bound,
}

/// Inputs that the linear kernels take at a time: `DEPTH` in `kernels/linear.cuh`.
pub(crate) const DEPTH: usize = 64;

/// Longest row that the row kernels take: `ROW_MAX` in `kernels/rows.cuh`.
const ROW_MAX: usize = 1024;

/// Rows of one block of the row kernels.
const ROWS_A_BLOCK: usize = 4;

/// Parts that a mean is summed up in.
const POOL_SHARES: usize = 4;

/// A tile of the linear kernels: rows, columns, stages and threads; as in `kernels/kernels.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    rows: usize,
    columns: usize,
    stages: usize,
    threads: usize,
}

/// For warps that multiply alone, largest last.
const TILES: [Tile; 5] = [
    tile(16, 64, 6, 128),
    tile(32, 64, 4, 128),
    tile(64, 64, 4, 128),
    tile(64, 128, 4, 128),
    tile(128, 128, 3, 128),
];

/// For groups of four warps that multiply together, largest last.
const GROUPED: [Tile; 4] = [
    tile(64, 32, 6, 128),
    tile(64, 64, 4, 128),
    tile(64, 128, 4, 128),
    tile(128, 128, 3, 256),
];

const fn tile(rows: usize, columns: usize, stages: usize, threads: usize) -> Tile {
    Tile {
        rows,
        columns,
        stages,
        threads,
    }
}

impl Tile {
    fn shared(self) -> usize {
        self.stages * (self.rows + self.columns) * DEPTH * 2
    }

    fn blocks(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.rows) * columns.div_ceil(self.columns)
    }
}

/// The largest tile of which there are enough for all multiprocessors; the smallest where none is.
fn pick(tiles: &[Tile], rows: usize, columns: usize, multiprocessors: usize) -> usize {
    let enough = |tile: &Tile| tile.blocks(rows, columns) >= multiprocessors;
    tiles.iter().rposition(enough).unwrap_or(0)
}

/// The kernels for one kind of number, activation and size of head.
#[derive(Debug)]
pub(crate) struct Kernels {
    device: Device,
    tiles: &'static [Tile],
    plain: Vec<Kernel>,
    active: Vec<Kernel>,
    attention: Kernel,
    embed: Kernel,
    add_norm: Kernel,
    pool: Kernel,
    hidden: usize,
    head: usize,
    forced: Option<usize>,
}

fn words(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Kernels {
    /// `active` is the activation that [`linear`](Self::linear) is asked for with `true`; `hidden` the
    /// numbers of a row and `head` those of a head.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] for sizes that there are no kernels for.
    pub(crate) fn new(
        device: &Device,
        numbers: Numbers,
        active: Activation,
        hidden: usize,
        head: usize,
    ) -> Result<Self, DeviceError> {
        if hidden == 0 || hidden > ROW_MAX || !hidden.is_multiple_of(DEPTH) {
            return Err(DeviceError::Unsupported {
                what: "rows of",
                got: hidden,
                want: "a multiple of 64 up to 1024",
            });
        }
        if head != 32 && head != 64 {
            return Err(DeviceError::Unsupported {
                what: "heads of size",
                got: head,
                want: "32 or 64",
            });
        }
        let numbers = numbers.name();
        let (tiles, how): (&[Tile], _) = if device.driver.has_groups() {
            (&GROUPED, "grouped")
        } else {
            (&TILES, "linear")
        };
        let linear = |activation: Activation| {
            let kernel = |tile: &Tile| {
                let (rows, columns, what) = (tile.rows, tile.columns, activation.name());
                let name = format!("{how}_{what}_{rows}x{columns}_{numbers}");
                device.driver.kernel(&name, words(tile.shared()))
            };
            tiles.iter().map(kernel).collect::<Result<_, _>>()
        };
        // As many times 128 numbers as a row has, of those that there are kernels for.
        let parts = match hidden {
            0..=384 => 3,
            385..=768 => 6,
            _ => 8,
        };
        let kernel = |name: &str, shared| device.driver.kernel(name, words(shared));
        Ok(Self {
            tiles,
            plain: linear(Activation::None)?,
            active: linear(active)?,
            attention: kernel(
                &format!("attention_{head}_{numbers}"),
                attention_shared(head),
            )?,
            embed: kernel(&format!("embed_{parts}_{numbers}"), 0)?,
            add_norm: kernel(&format!("add_norm_{parts}_{numbers}"), 0)?,
            pool: kernel(&format!("pool_{numbers}"), POOL_SHARES * ROW_MAX * 4)?,
            device: device.clone(),
            hidden,
            head,
            forced: None,
        })
    }

    /// Sizes of tiles that there are.
    #[cfg(all(test, feature = "emulation"))]
    pub(crate) fn tiles(&self) -> usize {
        self.tiles.len()
    }

    /// Uses tile `tile` for all linear layers, `None` for the best: for measuring and testing. Results
    /// are the same to the last bit.
    pub(crate) fn force_tile(&mut self, tile: Option<usize>) {
        self.forced = tile.map(|tile| tile.min(self.tiles.len() - 1));
    }

    fn launch<A>(
        &self,
        work: Work<'_>,
        kernel: Kernel,
        grid: (usize, usize),
        threads: usize,
        shared: usize,
        args: &A,
    ) -> Result<(), DeviceError> {
        let launch = Launch {
            kernel,
            grid: (words(grid.0), words(grid.1)),
            threads: words(threads),
            shared: words(shared),
        };
        let args: *const A = args;
        // SAFETY: the functions below pass what their kernel takes, and have checked every buffer.
        unsafe {
            self.device
                .driver
                .launch(work.lane, &launch, args.cast::<c_void>())
        }
    }

    /// `output = norm(words[id] + positions[place])`, `[tokens, hidden]`.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub(crate) fn embed(
        &self,
        work: Work<'_>,
        tables: &Tables,
        norm: &Norm,
        output: &Buffer<u16>,
    ) -> Result<(), DeviceError> {
        let hidden = self.hidden;
        assert_eq!(norm.weight.len(), hidden);
        let staging = work.staging;
        assert!(tables.words.len() >= staging.vocabulary() * hidden);
        assert!(tables.positions.len() >= staging.positions() * hidden);
        assert!(output.len() >= work.bound.tokens * hidden);
        let places = staging.places(work.bound);
        let args = arguments::Embed {
            header: places.header,
            ids: places.ids,
            places: places.places,
            words: tables.words.address(),
            positions: tables.positions.address(),
            weight: norm.weight.address(),
            bias: norm.bias.address(),
            output: output.address(),
            hidden: words(hidden),
            epsilon: norm.epsilon,
        };
        let blocks = work.bound.tokens.div_ceil(ROWS_A_BLOCK);
        self.launch(work, self.embed, (blocks, 1), ROWS_A_BLOCK * 32, 0, &args)
    }

    /// `output = input weight^T + bias`, `[tokens, outputs]`, with the activation if `active`.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub(crate) fn linear(
        &self,
        work: Work<'_>,
        layer: &Linear,
        active: bool,
        input: &Buffer<u16>,
        output: &Buffer<u16>,
    ) -> Result<(), DeviceError> {
        let rows = work.bound.tokens;
        assert!(input.len() >= rows * layer.inputs);
        assert!(output.len() >= rows * layer.outputs);
        assert!(!std::ptr::eq(input, output));
        let args = arguments::Linear {
            header: work.staging.places(work.bound).header,
            input: input.address(),
            weight: layer.weight.address(),
            bias: layer.bias.address(),
            output: output.address(),
            inputs: words(layer.inputs),
            outputs: words(layer.outputs),
        };
        let index = self.forced.unwrap_or_else(|| {
            pick(
                self.tiles,
                rows,
                layer.outputs,
                self.device.multiprocessors(),
            )
        });
        let kernels = if active { &self.active } else { &self.plain };
        let tile = self.tiles[index];
        let grid = (
            layer.outputs.div_ceil(tile.columns),
            rows.div_ceil(tile.rows),
        );
        self.launch(
            work,
            kernels[index],
            grid,
            tile.threads,
            tile.shared(),
            &args,
        )
    }

    /// Attention of every sequence: `qkv` is `[tokens, 3 hidden]`, queries, keys and values next to
    /// each other; `output` `[tokens, hidden]`.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub(crate) fn attention(
        &self,
        work: Work<'_>,
        relative: Option<&Relative>,
        qkv: &Buffer<u16>,
        output: &Buffer<u16>,
    ) -> Result<(), DeviceError> {
        let rows = work.bound.tokens;
        let hidden = self.hidden;
        let heads = hidden / self.head;
        assert_eq!(heads * self.head, hidden);
        assert!(qkv.len() >= rows * 3 * hidden);
        assert!(output.len() >= rows * hidden);
        if let Some(relative) = relative {
            assert!(relative.reach >= work.staging.positions());
            assert!(relative.biases.len() >= heads * (2 * relative.reach - 1));
        }
        let places = work.staging.places(work.bound);
        #[expect(clippy::cast_precision_loss, reason = "32 or 64")]
        let scale = (self.head as f32).sqrt().recip();
        let args = arguments::Attention {
            header: places.header,
            tiles: places.tiles,
            qkv: qkv.address(),
            output: output.address(),
            relative: relative.map_or(Address::NONE, |relative| relative.biases.address()),
            reach: words(relative.map_or(0, |relative| relative.reach)),
            hidden: words(hidden),
            scale,
        };
        let grid = (work.bound.tiles, heads);
        let shared = attention_shared(self.head);
        self.launch(work, self.attention, grid, 128, shared, &args)
    }

    /// `rows = norm(rows + change)`, `[tokens, hidden]`.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub(crate) fn add_norm(
        &self,
        work: Work<'_>,
        norm: &Norm,
        rows: &Buffer<u16>,
        change: &Buffer<u16>,
    ) -> Result<(), DeviceError> {
        let hidden = self.hidden;
        assert_eq!(norm.weight.len(), hidden);
        let numbers = work.bound.tokens * hidden;
        assert!(rows.len() >= numbers && change.len() >= numbers);
        let args = arguments::Norm {
            header: work.staging.places(work.bound).header,
            rows: rows.address(),
            change: change.address(),
            weight: norm.weight.address(),
            bias: norm.bias.address(),
            hidden: words(hidden),
            epsilon: norm.epsilon,
        };
        let blocks = work.bound.tokens.div_ceil(ROWS_A_BLOCK);
        self.launch(
            work,
            self.add_norm,
            (blocks, 1),
            ROWS_A_BLOCK * 32,
            0,
            &args,
        )
    }

    /// The mean of each sequence's rows, or its first row: `[sequences, hidden]`, straight into the
    /// host's memory.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub(crate) fn pool(
        &self,
        work: Work<'_>,
        first_row: bool,
        rows: &Buffer<u16>,
        output: &Pinned<f32>,
    ) -> Result<(), DeviceError> {
        let hidden = self.hidden;
        assert!(rows.len() >= work.bound.tokens * hidden);
        assert!(output.as_slice().len() >= work.bound.sequences * hidden);
        let places = work.staging.places(work.bound);
        let args = arguments::Pool {
            header: places.header,
            rows: rows.address(),
            offsets: places.offsets,
            output: output.address(),
            hidden: words(hidden),
            first_row: u32::from(first_row),
        };
        let threads = POOL_SHARES * hidden / 4;
        let shared = POOL_SHARES * hidden * 4;
        self.launch(
            work,
            self.pool,
            (work.bound.sequences, 1),
            threads,
            shared,
            &args,
        )
    }

    /// Records what `work` asks of the lane, to be done again by [`Recorded::replay`]. `None` where the
    /// device cannot record; then nothing was asked of it.
    ///
    /// # Errors
    /// [`DeviceError`] of `work` or of the driver.
    pub(crate) fn record(
        &self,
        lane: usize,
        work: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<Option<Recorded>, DeviceError> {
        let driver = &self.device.driver;
        if !driver.begin_recording(lane)? {
            return Ok(None);
        }
        let asked = work();
        let recording = driver.end_recording(lane);
        asked?;
        recording.map(|recording| Some(Recorded(recording)))
    }
}

/// Launches that are done again at the cost of one.
#[derive(Debug)]
pub(crate) struct Recorded(Box<dyn Recording>);

impl Recorded {
    /// Does what was recorded, in its lane.
    ///
    /// # Safety
    /// Every buffer, staging and kernel that was recorded must still exist.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub(crate) unsafe fn replay(&self) -> Result<(), DeviceError> {
        // SAFETY: the caller's.
        unsafe { self.0.replay() }
    }
}

/// Keys and values of four warps, 64 of each.
fn attention_shared(head: usize) -> usize {
    4 * 2 * 64 * head * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_batches_get_small_tiles_and_large_ones_large() {
        for tiles in [&TILES[..], &GROUPED[..]] {
            assert_eq!(pick(tiles, 12, 384, 132), 0);
            assert_eq!(pick(tiles, 64 * 128, 384, 132), tiles.len() - 1);
            let mut last = 0;
            for rows in 1..20_000 {
                let now = pick(tiles, rows, 384, 132);
                assert!(now >= last, "at {rows} rows");
                last = now;
            }
        }
    }

    #[test]
    fn a_block_fits_into_half_of_a_multiprocessor() {
        for tile in TILES.into_iter().chain(GROUPED) {
            assert!(tile.shared() <= 113 << 10, "{tile:?}");
        }
        assert!(attention_shared(64) <= 113 << 10);
    }
}
