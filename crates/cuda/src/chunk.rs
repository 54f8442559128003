//! Chunks: whole sequences that go through all layers together, and how their ids come to the device.

use zerocopy::IntoBytes;

use crate::arguments::{AttentionTile, Header};
use crate::device::{Address, Buffer, Device, DeviceError, Pinned};

/// Longest sequence of which one warp computes all queries; `KEYS` in `kernels/attention.cuh`.
const SHORT: usize = 64;

/// Queries of one block of a longer sequence.
const LONG_QUERIES: usize = 64;

/// Short sequences that share a block.
const SHORT_A_TILE: usize = 4;

const HEADER_WORDS: usize = size_of::<Header>() / 4;
const TILE_WORDS: usize = size_of::<AttentionTile>() / 4;

/// What a chunk may hold at most. Launches are sized for it; what a chunk lacks ends at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Bound {
    /// Tokens of all sequences.
    pub(crate) tokens: usize,
    /// Sequences.
    pub(crate) sequences: usize,
    /// Blocks of queries for each head.
    pub(crate) tiles: usize,
}

impl Bound {
    /// Any chunk of at most so many tokens.
    pub(crate) fn any(tokens: usize) -> Self {
        // Four short sequences share a tile, and the tiles of a long one are less than a token in 32.
        let tiles = tokens / SHORT_A_TILE + 1;
        Self {
            tokens,
            sequences: tokens,
            tiles,
        }
    }

    /// Just the chunk whose sequences end at `offsets[1..]`.
    pub(crate) fn of(offsets: &[usize]) -> Self {
        let mut tiles = Tiles::default();
        offsets
            .windows(2)
            .for_each(|pair| tiles.add(0, pair[1] - pair[0], |_| ()));
        tiles.flush(|_| ());
        Self {
            tokens: span(offsets),
            sequences: offsets.len().saturating_sub(1),
            tiles: tiles.count,
        }
    }

    fn holds(self, other: Self) -> bool {
        other.tokens <= self.tokens
            && other.sequences <= self.sequences
            && other.tiles <= self.tiles
    }

    /// Words to the ids, the places, the offsets, the tiles and the end.
    fn layout(self) -> [usize; 5] {
        let ids = HEADER_WORDS;
        let places = ids + self.tokens;
        let offsets = places + self.tokens;
        // Whole lines, as the kernel reads them.
        let tiles = (offsets + self.sequences + 1).next_multiple_of(4);
        [ids, places, offsets, tiles, tiles + self.tiles * TILE_WORDS]
    }
}

fn span(offsets: &[usize]) -> usize {
    match (offsets.first(), offsets.last()) {
        (Some(first), Some(last)) => last - first,
        _ => 0,
    }
}

/// Where the parts of a chunk are on the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) header: Address,
    pub(crate) ids: Address,
    pub(crate) places: Address,
    pub(crate) offsets: Address,
    pub(crate) tiles: Address,
}

/// Deals sequences out to tiles.
#[derive(Debug, Default)]
struct Tiles {
    open: AttentionTile,
    in_open: usize,
    count: usize,
}

impl Tiles {
    fn add(&mut self, first: usize, length: usize, mut each: impl FnMut(AttentionTile)) {
        if length > SHORT {
            for query in (0..length).step_by(LONG_QUERIES) {
                self.count += 1;
                each(AttentionTile {
                    first: [word(first), 0, 0, 0],
                    length: [word(length), 0, 0, 0],
                    query: word(query),
                    wide: 1,
                    unused: [0; 2],
                });
            }
            return;
        }
        self.open.first[self.in_open] = word(first);
        self.open.length[self.in_open] = word(length);
        self.in_open += 1;
        if self.in_open == SHORT_A_TILE {
            self.flush(each);
        }
    }

    fn flush(&mut self, mut each: impl FnMut(AttentionTile)) {
        if self.in_open > 0 {
            each(std::mem::take(&mut self.open));
            self.in_open = 0;
            self.count += 1;
        }
    }
}

/// Brings chunks to the device: pinned memory that is filled here, and its twin there.
///
/// Ids and lengths are checked when it is filled, so kernels only find what is within their tables.
#[derive(Debug)]
pub(crate) struct Staging {
    host: Pinned<u32>,
    device: Buffer<u32>,
    capacity: Bound,
    vocabulary: usize,
    positions: usize,
}

impl Staging {
    /// For chunks of up to `tokens` tokens, ids below `vocabulary` and sequences of up to `positions`
    /// tokens.
    ///
    /// # Errors
    /// [`DeviceError`] when there is no memory for it.
    pub(crate) fn new(
        device: &Device,
        tokens: usize,
        vocabulary: usize,
        positions: usize,
    ) -> Result<Self, DeviceError> {
        let capacity = Bound::any(tokens);
        let words = capacity.layout()[4];
        Ok(Self {
            host: device.pinned(words)?,
            device: device.buffer(words)?,
            capacity,
            vocabulary,
            positions,
        })
    }

    /// Bytes it takes on the device.
    pub(crate) fn bytes(&self) -> usize {
        self.device.bytes()
    }

    pub(crate) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    /// Puts a chunk into the host's half: sequence `i` is `ids[offsets[i] - offsets[0]..]` up to the
    /// next offset. The lane that copied the last one must have been waited for.
    ///
    /// # Panics
    /// When the chunk is larger than `bound` or `bound` than the staging, an id is outside the
    /// vocabulary, or a sequence too long or empty: mistakes of the caller.
    pub(crate) fn fill(&mut self, bound: Bound, ids: &[u32], offsets: &[usize]) {
        let chunk = Bound::of(offsets);
        assert!(
            bound.holds(chunk) && self.capacity.holds(bound),
            "the chunk has no room"
        );
        assert_eq!(ids.len(), chunk.tokens, "one id for each token");
        let [at_ids, at_places, at_offsets, at_tiles, _] = bound.layout();
        let words = self.host.as_mut_slice();
        let header = Header {
            tokens: word(chunk.tokens),
            sequences: word(chunk.sequences),
            tiles: word(chunk.tiles),
            unused: 0,
        };
        header
            .write_to(words[..HEADER_WORDS].as_mut_bytes())
            .expect("it has that size");
        let vocabulary = word(self.vocabulary);
        for (to, &id) in words[at_ids..].iter_mut().zip(ids) {
            assert!(id < vocabulary, "id {id} is outside the vocabulary");
            *to = id;
        }
        let mut tiles = Tiles::default();
        let mut at = at_tiles;
        let mut put = |words: &mut [u32], tile: AttentionTile| {
            let place = &mut words[at..at + TILE_WORDS];
            tile.write_to(place.as_mut_bytes())
                .expect("it has that size");
            at += TILE_WORDS;
        };
        for (index, pair) in offsets.windows(2).enumerate() {
            let (first, length) = (pair[0] - offsets[0], pair[1] - pair[0]);
            assert!(
                (1..=self.positions).contains(&length),
                "a sequence of {length} tokens"
            );
            words[at_offsets + index] = word(first);
            for place in 0..length {
                words[at_places + first + place] = word(place);
            }
            tiles.add(first, length, |tile| put(words, tile));
        }
        words[at_offsets + chunk.sequences] = word(chunk.tokens);
        tiles.flush(|tile| put(words, tile));
    }

    /// Has the lane copy what a chunk of `bound` can have to the device.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub(crate) fn copy(
        &self,
        device: &Device,
        lane: usize,
        bound: Bound,
    ) -> Result<(), DeviceError> {
        let bytes = bound.layout()[4] * 4;
        assert!(bytes <= self.device.bytes(), "the chunk has no room");
        // SAFETY: both have that many bytes; `fill` asks that the lane be waited for.
        unsafe {
            device
                .driver
                .copy_in(lane, self.device.address(), self.host.memory(), bytes)
        }
    }

    pub(crate) fn places(&self, bound: Bound) -> Places {
        let base = self.device.address();
        let [ids, places, offsets, tiles, _] = bound.layout();
        Places {
            header: base,
            ids: base.plus(ids * 4),
            places: base.plus(places * 4),
            offsets: base.plus(offsets * 4),
            tiles: base.plus(tiles * 4),
        }
    }
}

/// Sizes here are checked when a model is opened; a chunk is much smaller than four billion.
fn word(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(lengths: &[usize]) -> Vec<usize> {
        let mut offsets = vec![0];
        for length in lengths {
            offsets.push(offsets.last().unwrap_or(&0) + length);
        }
        offsets
    }

    #[test]
    fn four_short_sequences_share_a_tile_and_a_long_one_has_several() {
        let tiles = |lengths: &[usize]| Bound::of(&offsets(lengths)).tiles;
        assert_eq!(tiles(&[1]), 1);
        assert_eq!(tiles(&[64, 1, 2, 3]), 1);
        assert_eq!(tiles(&[64, 1, 2, 3, 4]), 2);
        assert_eq!(tiles(&[65]), 2);
        assert_eq!(tiles(&[1, 129, 2]), 4);
    }

    #[test]
    fn the_bound_of_any_chunk_holds_every_chunk() {
        let shapes: [&[usize]; 6] = [
            &[1; 64],
            &[64],
            &[65],
            &[16; 4],
            &[1, 65, 1, 65],
            &[5, 4, 3],
        ];
        for lengths in shapes {
            let chunk = Bound::of(&offsets(lengths));
            assert!(Bound::any(chunk.tokens).holds(chunk), "{lengths:?}");
        }
        assert!(!Bound::any(63).holds(Bound::of(&[0, 64])));
    }
}
