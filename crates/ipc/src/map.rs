//! The board and the bells as memory: files in the instance's directory, mapped whole.

use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use embedring_protocol::sync::Ordering;
use embedring_protocol::{BOARD_MAGIC, BOARD_VERSION, BellsLayout, BoardHeader, BoardLayout};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;
use thiserror::Error;

use crate::instance::Instance;

/// Why the board or the bells can not be mapped.
#[derive(Debug, Error)]
pub enum MapError {
    /// No such file: nobody serves yet.
    #[error("the instance has no board yet ({}); is `embedring up` still starting?", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is not one of ours, or of another version.
    #[error("{} was made by another version of embedring; stop the instance and start it again with this one", path.display())]
    Version {
        /// The file.
        path: PathBuf,
    },
    /// The processes of the instance were started with different limits.
    #[error(
        "the instance runs with other limits ({running:?}) than this process was configured with \
         ({ours:?}); start all its processes with the same [limits]"
    )]
    Limits {
        /// What the board says.
        running: BoardHeader,
        /// What we were told.
        ours: BoardHeader,
    },
    /// The file system is full.
    #[error("no room for {} ({bytes} bytes); free some, enlarge the tmpfs, or set runtime.dir", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: usize,
    },
    /// The system refused something.
    #[error("map {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A file of exactly one `T`, mapped and shared.
#[derive(Debug)]
struct Shared<T> {
    map: MmapRaw,
    /// Of the file, to tell it from a later one in its place.
    inode: u64,
    value: PhantomData<T>,
}

// SAFETY: a `Shared<T>` hands out nothing but `&T`, and both layouts used consist of atomics only.
unsafe impl<T: Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the map is at least `size_of::<T>()` long (checked in `map`), page aligned, lives
        // as long as `self`, and `T` is made of atomics for which all bytes are valid values, so
        // what other processes do to it meanwhile is a race on atomics and nothing else.
        unsafe { &*self.map.as_ptr().cast::<T>() }
    }
}

impl<T> Shared<T> {
    /// Opens or makes the file. The pages are allocated here: a full file system is an error now and
    /// not a bus error later.
    fn create(path: &Path) -> Result<Self, MapError> {
        let io = |source| MapError::Io {
            path: path.to_path_buf(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o660)
            .open(path)
            .map_err(io)?;
        // The umask of whoever started us must not decide whether the group may ring.
        if let Err(source) = file.set_permissions(PermissionsExt::from_mode(0o660))
            && source.kind() != io::ErrorKind::PermissionDenied
        {
            return Err(io(source));
        }
        match fallocate(&file, FallocateFlags::empty(), 0, size_of::<T>() as u64) {
            Ok(()) => {}
            Err(Errno::NOSPC) => {
                return Err(MapError::Full {
                    path: path.to_path_buf(),
                    bytes: size_of::<T>(),
                });
            }
            Err(error) => return Err(io(error.into())),
        }
        Self::map(&file, path, true)
    }

    fn open(path: &Path, write: bool) -> Result<Self, MapError> {
        let file = OpenOptions::new()
            .read(true)
            .write(write)
            .open(path)
            .map_err(|source| {
                if source.kind() == io::ErrorKind::NotFound {
                    MapError::Missing {
                        path: path.to_path_buf(),
                    }
                } else {
                    MapError::Io {
                        path: path.to_path_buf(),
                        source,
                    }
                }
            })?;
        Self::map(&file, path, write)
    }

    fn map(file: &File, path: &Path, write: bool) -> Result<Self, MapError> {
        let io = |source| MapError::Io {
            path: path.to_path_buf(),
            source,
        };
        let metadata = file.metadata().map_err(io)?;
        if metadata.len() != size_of::<T>() as u64 {
            return Err(MapError::Version {
                path: path.to_path_buf(),
            });
        }
        let mut options = MmapOptions::new();
        options.len(size_of::<T>());
        let map = if write {
            options.map_raw(file).map_err(io)?
        } else {
            options.map_raw_read_only(file).map_err(io)?
        };
        Ok(Self {
            map,
            inode: metadata.ino(),
            value: PhantomData,
        })
    }
}

/// The board, mapped. Clients map it read-only: a write through such a map faults.
#[derive(Debug)]
pub struct BoardMap {
    shared: Shared<BoardLayout>,
    header: BoardHeader,
    lock: Option<File>,
    path: PathBuf,
}

impl BoardMap {
    const FILE: &'static str = "board";

    /// For those who serve: opens the board, or makes it with this header.
    ///
    /// # Errors
    /// When the board is of another version or has other limits, or can not be made.
    pub fn create(instance: &Instance, header: BoardHeader) -> Result<Self, MapError> {
        let path = instance.path().join(Self::FILE);
        let ours = BoardHeader {
            version: BOARD_VERSION,
            ..header
        };
        let lock_path = instance.path().join("board.lock");
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o660)
            .open(&lock_path)
            .map_err(|source| MapError::Io {
                path: lock_path,
                source,
            })?;
        let shared = {
            let _held = hold(&lock);
            let shared = Shared::<BoardLayout>::create(&path)?;
            if shared.magic.load(Ordering::Acquire) == 0 {
                shared.header.write(&ours);
                // Partner: `read_header`. Whoever sees the magic sees the header.
                shared.magic.store(BOARD_MAGIC, Ordering::Release);
            }
            shared
        };
        let running = read_header(&shared, &path)?;
        if running != ours {
            return Err(MapError::Limits { running, ours });
        }
        Ok(Self {
            shared,
            header: running,
            lock: Some(lock),
            path,
        })
    }

    /// For clients and onlookers: maps the board read-only.
    ///
    /// # Errors
    /// When there is none, or of another version.
    pub fn open(instance: &Instance) -> Result<Self, MapError> {
        let path = instance.path().join(Self::FILE);
        let shared = Shared::<BoardLayout>::open(&path, false)?;
        let header = read_header(&shared, &path)?;
        Ok(Self {
            shared,
            header,
            lock: None,
            path,
        })
    }

    /// What all processes of the instance agreed on.
    #[must_use]
    pub fn header(&self) -> &BoardHeader {
        &self.header
    }

    /// True while the file mapped here is the instance's board: not removed, and not made anew by
    /// a later start of the instance.
    #[must_use]
    pub fn is_current(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|now| now.ino() == self.shared.inode)
    }

    /// Keeps other servers of the instance from changing who has which place. `None` for a board
    /// that is mapped read-only.
    pub(crate) fn lock(&self) -> Option<Held<'_>> {
        self.lock.as_ref().map(hold)
    }
}

impl Deref for BoardMap {
    type Target = BoardLayout;

    fn deref(&self) -> &BoardLayout {
        &self.shared
    }
}

fn read_header(board: &BoardLayout, path: &Path) -> Result<BoardHeader, MapError> {
    // Partner: the store in `create`.
    let magic = board.magic.load(Ordering::Acquire);
    let header = (magic == BOARD_MAGIC)
        .then(|| board.header.read())
        .flatten();
    header
        .filter(|header| header.version == BOARD_VERSION)
        .ok_or_else(|| MapError::Version {
            path: path.to_path_buf(),
        })
}

/// A file lock, held until dropped.
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a File);

fn hold(file: &File) -> Held<'_> {
    // The lock is held for microseconds and the kernel frees it with its holder. Interrupted: again.
    while flock(file.as_fd(), FlockOperation::LockExclusive) == Err(Errno::INTR) {}
    Held(file)
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Unlocking a lock we hold can not fail.
        let _unlocked = flock(self.0.as_fd(), FlockOperation::Unlock);
    }
}

/// The bells, mapped by everybody for reading and writing.
#[derive(Debug)]
pub struct BellsMap {
    shared: Shared<BellsLayout>,
}

impl BellsMap {
    const FILE: &'static str = "bells";

    /// For those who serve.
    ///
    /// # Errors
    /// When the file is of another version or can not be made.
    pub fn create(instance: &Instance) -> Result<Self, MapError> {
        let shared = Shared::create(&instance.path().join(Self::FILE))?;
        Ok(Self { shared })
    }

    /// For clients.
    ///
    /// # Errors
    /// When there is none, or of another version.
    pub fn open(instance: &Instance) -> Result<Self, MapError> {
        let shared = Shared::open(&instance.path().join(Self::FILE), true)?;
        Ok(Self { shared })
    }
}

impl Deref for BellsMap {
    type Target = BellsLayout;

    fn deref(&self) -> &BellsLayout {
        &self.shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::InstanceOptions;

    fn header() -> BoardHeader {
        BoardHeader {
            clients_max: 4,
            ..BoardHeader::default()
        }
    }

    #[test]
    fn board_and_bells_are_shared() {
        let dir = tempfile::tempdir().unwrap();
        let options = InstanceOptions {
            dir: dir.path().into(),
            ..InstanceOptions::new("t")
        };
        let instance = Instance::create(&options).unwrap();
        assert!(matches!(
            BoardMap::open(&instance),
            Err(MapError::Missing { .. })
        ));
        let board = BoardMap::create(&instance, header()).unwrap();
        let seen = BoardMap::open(&instance).unwrap();
        assert_eq!(seen.header().clients_max, 4);
        board.workers[3].heartbeat_ns.store(99, Ordering::Relaxed);
        assert_eq!(seen.workers[3].heartbeat_ns.load(Ordering::Relaxed), 99);
        let bells = BellsMap::create(&instance).unwrap();
        bells.workers[1].rings.store(7, Ordering::Relaxed);
        let others = BellsMap::open(&instance).unwrap();
        assert_eq!(others.workers[1].rings.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn other_limits_and_other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let options = InstanceOptions {
            dir: dir.path().into(),
            ..InstanceOptions::new("t")
        };
        let instance = Instance::create(&options).unwrap();
        BoardMap::create(&instance, header()).unwrap();
        let other = BoardHeader {
            clients_max: 5,
            ..header()
        };
        let error = BoardMap::create(&instance, other).unwrap_err();
        assert!(matches!(error, MapError::Limits { .. }), "{error}");
        std::fs::write(instance.path().join("board"), b"junk").unwrap();
        assert!(matches!(
            BoardMap::open(&instance),
            Err(MapError::Version { .. })
        ));
    }
}
