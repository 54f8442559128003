//! The files a model consists of; copying, hashing and flushing them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use sha2::{Digest, Sha256};

use crate::error::SourceError;

pub(crate) const WEIGHTS: &str = "model.safetensors";

/// Larger than any embedding model in one file that a CPU would serve; a bound, so that a source
/// cannot fill the disk.
const WEIGHTS_BYTES_MAX: u64 = 16 << 30;
/// The largest tokenizer files in use have some 17 MB (250,000 pieces).
const TEXT_BYTES_MAX: u64 = 128 << 20;

/// One file of a model directory. Only these are ever taken from a source.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Path inside the model directory, with `/`.
    pub(crate) path: &'static str,
    pub(crate) required: bool,
    pub(crate) bytes_max: u64,
}

const fn text(path: &'static str, required: bool) -> Wanted {
    Wanted {
        path,
        required,
        bytes_max: TEXT_BYTES_MAX,
    }
}

/// The small files come first: a source that lacks one is found out before the long download.
pub(crate) static WANTED: [Wanted; 10] = [
    text("config.json", true),
    text("tokenizer.json", true),
    text("modules.json", false),
    text("sentence_bert_config.json", false),
    text("1_Pooling/config.json", false),
    text("tokenizer_config.json", false),
    text("config_sentence_transformers.json", false),
    text("special_tokens_map.json", false),
    text("vocab.txt", false),
    Wanted {
        path: WEIGHTS,
        required: true,
        bytes_max: WEIGHTS_BYTES_MAX,
    },
];

/// Writes what `reader` gives to the new file `out/wanted.path` and returns its length.
///
/// `announced` is called with the number of bytes written so far.
pub(crate) fn write(
    wanted: &Wanted,
    reader: &mut dyn Read,
    out: &Path,
    announced: &mut dyn FnMut(u64),
) -> Result<u64, SourceError> {
    let path = out.join(wanted.path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(SourceError::io(parent))?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(SourceError::io(&path))?;
    pour(reader, &mut file, wanted.bytes_max, announced).map_err(|error| match error {
        Pour::Io(source) => SourceError::Io { path, source },
        Pour::TooLarge => SourceError::TooLarge {
            file: wanted.path.to_owned(),
            limit: wanted.bytes_max,
        },
    })
}

enum Pour {
    Io(io::Error),
    TooLarge,
}

fn pour(
    reader: &mut dyn Read,
    file: &mut File,
    limit: u64,
    announced: &mut dyn FnMut(u64),
) -> Result<u64, Pour> {
    let mut buffer = vec![0; 256 << 10];
    let mut done = 0;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(done),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Pour::Io(error)),
        };
        done += count as u64;
        if done > limit {
            return Err(Pour::TooLarge);
        }
        file.write_all(&buffer[..count]).map_err(Pour::Io)?;
        announced(done);
    }
}

/// SHA-256 of a file, lower-case hexadecimal.
pub(crate) fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Refuses a file whose SHA-256 is not `expected`.
pub(crate) fn check_sha256(path: &Path, file: &str, expected: &str) -> Result<(), SourceError> {
    let got = sha256(path).map_err(SourceError::io(path))?;
    if got == expected {
        return Ok(());
    }
    Err(SourceError::Digest {
        file: file.to_owned(),
        got,
        expected: expected.to_owned(),
    })
}

pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Flushes every file and folder under `folder`, so that the rename which publishes it cannot
/// survive a power cut that its content does not.
pub(crate) fn flush(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            flush(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

/// Bytes of all files under `folder`; what cannot be read counts as nothing.
pub(crate) fn bytes_under(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => bytes_under(&entry.path()),
            Ok(_) => fs::metadata(entry.path()).map_or(0, |data| data.len()),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use std::{fs, io};

    use super::{Wanted, check_sha256, sha256, write};
    use crate::error::SourceError;

    const SMALL: Wanted = Wanted {
        path: "1_Pooling/config.json",
        required: true,
        bytes_max: 8,
    };

    #[test]
    fn writes_up_to_the_limit_and_not_beyond() {
        let out = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        let done = write(&SMALL, &mut &b"12345678"[..], out.path(), &mut |n| {
            seen.push(n)
        })
        .unwrap();
        assert_eq!((done, seen), (8, vec![8]));
        assert_eq!(fs::read(out.path().join(SMALL.path)).unwrap(), b"12345678");

        let out = tempfile::tempdir().unwrap();
        let error = write(&SMALL, &mut io::repeat(b'x'), out.path(), &mut |_| {}).unwrap_err();
        assert!(
            matches!(error, SourceError::TooLarge { limit: 8, .. }),
            "{error}"
        );
    }

    #[test]
    fn hashes_as_the_standard_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        fs::write(&path, "abc").unwrap();
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&path).unwrap(), digest);
        check_sha256(&path, "abc", digest).unwrap();
        fs::write(&path, "abd").unwrap();
        let error = check_sha256(&path, "abc", digest).unwrap_err();
        assert!(matches!(error, SourceError::Digest { .. }), "{error}");
    }
}
