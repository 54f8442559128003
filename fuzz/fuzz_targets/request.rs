//! A request as a worker sees it: bytes that any client may have written.
//!
//! First byte even: the rest is the message. Odd: the rest is a recipe for a good message
//! ([`embedring_fuzz::Bytes`]), which must be read back as written, and is then damaged.

#![no_main]

use embedring_fuzz::{Bytes, inside};
use embedring_protocol::limits::{PROMPT_BYTES_MAX, TEXTS_PER_REQUEST_MAX};
use embedring_protocol::{
    ModelId, RequestHeader, RequestView, RequestWriter, TextFlags, request_bytes,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    if mode % 2 == 0 {
        look_at_everything(rest);
    } else {
        write_read_and_damage(&mut Bytes::new(rest));
    }
});

fn look_at_everything(bytes: &[u8]) {
    let Ok(view) = RequestView::parse(bytes) else {
        return;
    };
    let count = view.text_count();
    assert!((1..=TEXTS_PER_REQUEST_MAX).contains(&count));
    assert!(view.prompt().len() <= PROMPT_BYTES_MAX);
    assert!(inside(bytes, view.prompt().as_bytes()));
    for index in 0..count {
        assert!(inside(bytes, view.text_bytes(index)));
        let _ = view.text_flags(index).is_cut();
    }
    for beyond in [count, count + 1, usize::MAX / 16] {
        assert!(view.text_bytes(beyond).is_empty() || beyond < count);
        let _ = view.text_flags(beyond);
    }
    let _ = (view.class(), view.truncation(), view.normalize());
    let _ = (view.prompt_kind(), *view.header());
}

fn write_read_and_damage(recipe: &mut Bytes<'_>) {
    let mut header = RequestHeader::new(recipe.u64(), recipe.u64());
    header.class = recipe.u8() % 2;
    header.truncation = recipe.u8() % 3;
    header.normalize = recipe.u8() % 3;
    header.prompt_kind = recipe.u8() % 3;
    header.sent_ns = recipe.u64();
    header.client = u32::from(recipe.u16());
    header.dimensions = u32::from(recipe.u16()) % 4097;
    header.model = ModelId([recipe.u8(); 16]);
    let damages: Vec<(u16, u8)> = (0..recipe.u8() % 8)
        .map(|_| (recipe.u16(), recipe.u8()))
        .collect();
    let count = usize::from(recipe.u8());
    let slack = usize::from(recipe.u8());
    let prompt = recipe.text();
    let texts: Vec<(&[u8], TextFlags)> = (0..count)
        .map(|_| {
            let cut = recipe.u8() % 2 == 1;
            let flags = if cut { TextFlags::CUT } else { TextFlags::NONE };
            (recipe.slice(), flags)
        })
        .collect();

    let text_bytes = texts.iter().map(|(text, _)| text.len()).sum();
    let need = request_bytes(prompt.len(), count, text_bytes);
    // Sometimes too small by a little: the writer must say so, not write outside.
    let mut slot = vec![0; (need + 16).saturating_sub(slack)];
    let Some(used) = write(&mut slot, header, &prompt, &texts) else {
        assert!(count == 0 || prompt.len() > PROMPT_BYTES_MAX || slot.len() < need);
        return;
    };
    assert_eq!(used, need);

    let view = RequestView::parse(&slot[..used]).expect("what the writer wrote is good");
    assert_eq!(view.prompt(), prompt);
    assert_eq!(view.text_count(), count);
    assert_eq!(view.header().id, header.id);
    for (index, (text, flags)) in texts.iter().enumerate() {
        assert_eq!(view.text_bytes(index), *text);
        assert_eq!(view.text_flags(index), *flags);
    }

    for (at, value) in damages {
        let at = usize::from(at) % used;
        slot[at] = value;
    }
    look_at_everything(&slot[..used]);
    look_at_everything(&slot);
}

fn write(
    slot: &mut [u8],
    header: RequestHeader,
    prompt: &str,
    texts: &[(&[u8], TextFlags)],
) -> Option<usize> {
    let mut writer = RequestWriter::new(slot, header, prompt, texts.len()).ok()?;
    for (text, flags) in texts {
        writer.push_bytes(text, *flags).ok()?;
    }
    assert!(
        writer.push("one too many", TextFlags::NONE).is_err(),
        "more texts than announced"
    );
    writer.finish().ok()
}
