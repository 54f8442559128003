//! NumPy's array file, version 1.0: a header of fixed length that is written last, when the number
//! of rows is known, and the rows as little-endian f32.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use embedring_client::Embeddings;

use super::sink::Sink;

/// Magic, version, header length, and a header padded so that the data begins at a multiple of 64.
const HEADER_BYTES: usize = 128;

pub(super) struct Npy {
    file: BufWriter<File>,
    to_stdout: bool,
    rows: u64,
    dimensions: usize,
}

impl Npy {
    /// Writes to a file; for stdout to a temporary one first, since a pipe can not be rewound.
    pub(super) fn create(path: Option<&Path>) -> Result<Self> {
        let file = match path {
            Some(path) => File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(path)
                .with_context(|| format!("create {} (--out)", path.display()))?,
            None => tempfile::tempfile().context("make a temporary file (TMPDIR)")?,
        };
        let mut file = BufWriter::new(file);
        file.write_all(&[0; HEADER_BYTES])
            .context("write the output")?;
        Ok(Self {
            file,
            to_stdout: path.is_none(),
            rows: 0,
            dimensions: 0,
        })
    }
}

impl Sink for Npy {
    fn row(&mut self, answer: &Embeddings<'_>, index: usize) -> Result<()> {
        self.dimensions = answer.dimensions();
        for value in answer.row(index) {
            self.file
                .write_all(&value.to_le_bytes())
                .context("write the output")?;
        }
        self.rows += 1;
        Ok(())
    }

    fn error(&mut self, error: &str, _kind: &str) -> Result<()> {
        // An array has no place for an error, and a row of zeros would be a wrong vector.
        bail!(
            "text {}: {error}; --output npy needs all texts, use jsonl to keep the others",
            self.rows
        );
    }

    fn finish(&mut self) -> Result<()> {
        let mut header = format!(
            "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}",
            self.rows, self.dimensions
        );
        while header.len() < HEADER_BYTES - 11 {
            header.push(' ');
        }
        header.push('\n');
        let length = u16::try_from(header.len()).context("the array's shape is too long")?;
        let mut write = || -> io::Result<()> {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(b"\x93NUMPY\x01\x00")?;
            self.file.write_all(&length.to_le_bytes())?;
            self.file.write_all(header.as_bytes())?;
            self.file.flush()?;
            if self.to_stdout {
                let file = self.file.get_mut();
                file.seek(SeekFrom::Start(0))?;
                io::copy(file, &mut io::stdout().lock())?;
            }
            Ok(())
        };
        write().context("write the output")
    }
}
