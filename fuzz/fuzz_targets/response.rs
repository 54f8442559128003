//! A response as a client sees it: bytes that a worker may have written.
//!
//! First byte even: the rest is the message. Odd: the rest is a recipe for a good message, which
//! must be read back as written, and is then damaged.

#![no_main]

use embedring_fuzz::{Bytes, inside};
use embedring_protocol::limits::{DIMENSIONS_MAX, TEXTS_PER_REQUEST_MAX};
use embedring_protocol::{
    Precision, ResponseHeader, ResponseView, ResponseWriter, RowFlags, RowMeta, Status, TextFault,
    response_bytes, rows_from_bytes, rows_per_response,
};
use libfuzzer_sys::fuzz_target;
use zerocopy::IntoBytes;

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    // Any alignment must do: rows that are not aligned are no rows.
    let rows = rows_from_bytes(rest);
    assert!(rows.is_empty() || rows.len() * 4 == rest.len());
    if mode % 2 == 0 {
        let mut words = vec![0u32; rest.len().div_ceil(4)];
        let aligned = &mut words.as_mut_bytes()[..rest.len()];
        aligned.copy_from_slice(rest);
        look_at_everything(aligned);
    } else {
        write_read_and_damage(&mut Bytes::new(rest));
    }
});

fn look_at_everything(bytes: &[u8]) {
    let Ok(view) = ResponseView::parse(bytes) else {
        return;
    };
    let header = *view.header();
    let dimensions = header.dimensions as usize;
    assert_eq!(view.metas().len(), header.row_count as usize);
    assert!(view.metas().len() <= TEXTS_PER_REQUEST_MAX && dimensions <= DIMENSIONS_MAX);
    assert!(rows_per_response(bytes.len(), dimensions) >= view.metas().len());
    let rows = rows_from_bytes(&bytes[view.rows_offset()..]);
    assert_eq!(rows.len(), view.metas().len() * dimensions);
    assert!(inside(bytes, rows.as_bytes()));
    let _ = (header.status(), Precision::from_wire(header.precision));
    for meta in view.metas() {
        let flags = meta.flags();
        let _ = (flags.is_truncated(), flags.is_empty_text());
        let _ = flags
            .fault_of()
            .map(|fault| (fault.kind(), fault.to_string()));
    }
}

fn write_read_and_damage(recipe: &mut Bytes<'_>) {
    let mut head = ResponseHeader::new(recipe.u64(), Status::from_wire(recipe.u16() % 13));
    head.retry_after_ns = recipe.u64();
    head.precision = recipe.u8();
    let (rows, dimensions) = (usize::from(recipe.u8() % 40), usize::from(recipe.u8() % 40));
    let damages: Vec<(u16, u8)> = (0..recipe.u8() % 8)
        .map(|_| (recipe.u16(), recipe.u8()))
        .collect();
    let metas: Vec<RowMeta> = (0..rows)
        .map(|_| {
            let (tokens, kind) = (u32::from(recipe.u16()), recipe.u8());
            let good = RowFlags::good(kind & 64 != 0, kind & 128 != 0);
            let flags = TextFault::from_wire(kind & 7).map_or(good, RowFlags::fault);
            RowMeta::new(tokens, flags)
        })
        .collect();

    let bytes = response_bytes(rows, dimensions);
    let mut words = vec![0x5555_5555u32; bytes / 4];
    let slot = words.as_mut_bytes();
    assert!(ResponseWriter::new(&mut slot[..bytes - 4], rows, dimensions).is_none());
    let mut writer = ResponseWriter::new(slot, rows, dimensions).expect("the right size");
    for index in 0..rows {
        // As bits, since a worker may give anything, a NaN too.
        let value = f32::from_bits(u32::from_le_bytes([recipe.u8(); 4]));
        writer.row_mut(index).fill(value);
    }
    assert!(writer.row_mut(rows).is_empty() || dimensions == 0);
    writer.finish(head, &metas);

    let view = ResponseView::parse(slot).expect("what the writer wrote is good");
    assert_eq!(view.metas(), metas);
    assert_eq!(view.header().status(), head.status());
    let all = rows_from_bytes(&slot[view.rows_offset()..]);
    for (index, meta) in metas.iter().enumerate() {
        let row = &all[index * dimensions..(index + 1) * dimensions];
        let failed = meta.flags().fault_of().is_some();
        assert!(!failed || row.iter().all(|x| x.to_bits() == 0));
    }

    for (at, value) in damages {
        let at = usize::from(at) % bytes;
        slot[at] = value;
    }
    look_at_everything(slot);
}
