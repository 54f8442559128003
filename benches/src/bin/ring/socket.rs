//! A Unix stream socket with messages of the same size, both sides asleep in `read`.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::{DIMENSIONS, TEXT_BYTES, Turn, eventually};

const REQUEST_BYTES: usize = TEXT_BYTES + 84;
const RESPONSE_BYTES: usize = DIMENSIONS * 4 + 104;
const FILE: &str = "socket";

pub(crate) fn serve(dir: &Path) -> Result<()> {
    let listener = UnixListener::bind(dir.join(FILE)).context("bind a socket")?;
    let (mut stream, _) = listener.accept().context("accept")?;
    let mut request = [0; REQUEST_BYTES];
    let response = [7; RESPONSE_BYTES];
    while stream.read_exact(&mut request).is_ok() {
        stream.write_all(&response).context("answer")?;
    }
    Ok(())
}

pub(crate) fn measure(dir: &Path, count: usize) -> Result<Turn> {
    let mut stream = eventually("connect", || Ok(UnixStream::connect(dir.join(FILE))?))?;
    let request = [7; REQUEST_BYTES];
    let mut response = [0; RESPONSE_BYTES];
    crate::measure(count, || {
        stream.write_all(&request)?;
        stream.read_exact(&mut response)?;
        Ok(())
    })
}
