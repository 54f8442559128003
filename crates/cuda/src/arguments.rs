//! What the kernels are called with, as `kernels/arguments.cuh` has it. Pointers are addresses of the
//! device.

use zerocopy::{Immutable, IntoBytes};

use crate::device::Address;

/// How much of a chunk there is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
pub(crate) struct Header {
    pub(crate) tokens: u32,
    pub(crate) sequences: u32,
    pub(crate) tiles: u32,
    pub(crate) unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    pub(crate) header: Address,
    pub(crate) input: Address,
    pub(crate) weight: Address,
    pub(crate) bias: Address,
    pub(crate) output: Address,
    pub(crate) inputs: u32,
    pub(crate) outputs: u32,
}

/// The queries of one block: all of up to four short sequences, or 64 of one that is long.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
pub(crate) struct AttentionTile {
    pub(crate) first: [u32; 4],
    pub(crate) length: [u32; 4],
    pub(crate) query: u32,
    pub(crate) wide: u32,
    pub(crate) unused: [u32; 2],
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    pub(crate) header: Address,
    pub(crate) tiles: Address,
    pub(crate) qkv: Address,
    pub(crate) output: Address,
    pub(crate) relative: Address,
    pub(crate) reach: u32,
    pub(crate) hidden: u32,
    pub(crate) scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Embed {
    pub(crate) header: Address,
    pub(crate) ids: Address,
    pub(crate) places: Address,
    pub(crate) words: Address,
    pub(crate) positions: Address,
    pub(crate) weight: Address,
    pub(crate) bias: Address,
    pub(crate) output: Address,
    pub(crate) hidden: u32,
    pub(crate) epsilon: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub(crate) header: Address,
    pub(crate) rows: Address,
    pub(crate) change: Address,
    pub(crate) weight: Address,
    pub(crate) bias: Address,
    pub(crate) hidden: u32,
    pub(crate) epsilon: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub(crate) header: Address,
    pub(crate) rows: Address,
    pub(crate) offsets: Address,
    pub(crate) output: Address,
    pub(crate) hidden: u32,
    pub(crate) first_row: u32,
}
