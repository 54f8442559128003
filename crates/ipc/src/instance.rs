//! The directory of an instance: where it is, who may use it, and what is said to those who may not.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Gid, flock};
use rustix::io::Errno;
use rustix::process::geteuid;
use thiserror::Error;

use crate::users::{group_id, group_name, user_id, user_name};

/// Bytes that must be left on the file system of an instance before anybody writes to a page of it
/// that may not be allocated yet: such a write on a full tmpfs is a bus error. Far more than all
/// processes of an instance take in the time between the look and the write.
pub const ROOM_BYTES_MIN: u64 = 2 << 20;

/// Where an instance lies and who may use it.
#[derive(Clone, Debug)]
pub struct InstanceOptions {
    /// Parent directory, a tmpfs.
    pub dir: PathBuf,
    /// First part of the directory's name.
    pub prefix: String,
    /// Name of the instance.
    pub instance: String,
    /// User who runs the instance, by name or number; `None` for the current one.
    pub owner: Option<String>,
    /// Group whose members may use it, by name or number; `None` for nobody but the owner.
    pub group: Option<String>,
}

impl InstanceOptions {
    /// An instance of the current user in `/dev/shm`.
    #[must_use]
    pub fn new(instance: &str) -> Self {
        Self {
            dir: PathBuf::from("/dev/shm"),
            prefix: "embedring".to_owned(),
            instance: instance.to_owned(),
            owner: None,
            group: None,
        }
    }

    fn owner_id(&self) -> Result<u32, InstanceError> {
        match &self.owner {
            None => Ok(geteuid().as_raw()),
            Some(owner) => user_id(owner).ok_or_else(|| InstanceError::UnknownUser {
                user: owner.clone(),
            }),
        }
    }

    /// The directory of the instance. The owner's number is part of its name: two users with the
    /// same instance name do not meet, and nobody can squat another's.
    ///
    /// # Errors
    /// When the owner is no user of this host.
    pub fn path(&self) -> Result<PathBuf, InstanceError> {
        let owner = self.owner_id()?;
        Ok(self
            .dir
            .join(format!("{}-{owner}-{}", self.prefix, self.instance)))
    }
}

/// How often, and after which pause, a role that seems taken is tried again.
const LOCK_TRIES: u32 = 10;
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(2);

/// Why an instance can not be used.
#[derive(Debug, Error)]
pub enum InstanceError {
    /// Nothing runs under this name.
    #[error(
        "no embedring instance '{instance}' of user {owner} is running (no directory {}); start it \
         with `embedring up`, or name another with --instance or EMBEDRING_INSTANCE",
        path.display()
    )]
    NotRunning {
        /// Name of the instance.
        instance: String,
        /// User looked for.
        owner: String,
        /// Directory looked for.
        path: PathBuf,
    },
    /// The directory is there and this user may not enter it.
    #[error(
        "permission denied: instance '{instance}' is open to members of group '{group}' only; ask \
         for membership of '{group}', or run an instance of your own"
    )]
    NotInGroup {
        /// Name of the instance.
        instance: String,
        /// The group that may.
        group: String,
    },
    /// The directory is there and open to its owner only.
    #[error(
        "permission denied: instance '{instance}' is open to user '{owner}' only; its owner can \
         open it to a group with runtime.group"
    )]
    OwnerOnly {
        /// Name of the instance.
        instance: String,
        /// The user who may.
        owner: String,
    },
    /// Somebody else made a directory where the instance should be.
    #[error(
        "{} belongs to user '{found}' and not to '{wanted}'; remove it or set runtime.dir",
        path.display()
    )]
    WrongOwner {
        /// The directory.
        path: PathBuf,
        /// Who owns it.
        found: String,
        /// Who should.
        wanted: String,
    },
    /// Another process already has the role.
    #[error(
        "{role} of instance '{instance}' is already running (pid {pid}); stop it first, or choose another --instance"
    )]
    AlreadyRunning {
        /// What is running.
        role: String,
        /// Name of the instance.
        instance: String,
        /// Its process, 0 when unknown.
        pid: u64,
    },
    /// `runtime.owner` is no user.
    #[error("runtime.owner: no user '{user}' on this host")]
    UnknownUser {
        /// The name given.
        user: String,
    },
    /// `runtime.group` is no group.
    #[error("runtime.group: no group '{group}' on this host")]
    UnknownGroup {
        /// The name given.
        group: String,
    },
    /// This user is not in the group that the instance is to be opened to.
    #[error("runtime.group: {} can not be given to group '{group}': {source}; the user who runs the instance must be a member", path.display())]
    GroupNotOurs {
        /// The directory.
        path: PathBuf,
        /// The group.
        group: String,
        /// What the system said.
        source: io::Error,
    },
    /// Less memory is left than an instance needs to start.
    #[error(
        "{} has {free_bytes} bytes left, {need_bytes} are needed; free some, enlarge the tmpfs \
         (mount -o remount,size=…), or set runtime.dir",
        path.display()
    )]
    Full {
        /// The file system.
        path: PathBuf,
        /// What is left.
        free_bytes: u64,
        /// What is needed.
        need_bytes: u64,
    },
    /// The system refused something.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The directory of an instance, found or made.
#[derive(Clone, Debug)]
pub struct Instance {
    path: PathBuf,
    name: String,
    inode: u64,
}

/// A role (supervisor, scheduler, one worker) that one process at a time may have: a locked file,
/// which the kernel unlocks when its holder ends, however it ends.
#[derive(Debug)]
pub struct RoleLock {
    _file: File,
}

impl Instance {
    /// Makes the directory of an instance, or takes over the one that is there. For those who serve.
    ///
    /// # Errors
    /// When the directory belongs to somebody else, can not be made, or the group is not to be had.
    pub fn create(options: &InstanceOptions) -> Result<Self, InstanceError> {
        let path = options.path()?;
        let is_ours = match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(source) => return Err(io_error("make the directory", &path, source)),
        };
        let instance = Self::check(options, path)?;
        if let Err(error) = instance.set_access(options) {
            if is_ours {
                // Empty still; if it can not be removed either, the error to tell is the first.
                drop(fs::remove_dir(&instance.path));
            }
            return Err(error);
        }
        Ok(instance)
    }

    /// Finds the directory of a running instance. For clients.
    ///
    /// # Errors
    /// When there is none, or this user may not use it.
    pub fn open(options: &InstanceOptions) -> Result<Self, InstanceError> {
        let path = options.path()?;
        let instance = Self::check(options, path)?;
        // Reading the directory is what a member may and a stranger may not.
        if let Err(source) = fs::read_dir(&instance.path) {
            return Err(instance.denied(source));
        }
        Ok(instance)
    }

    fn check(options: &InstanceOptions, path: PathBuf) -> Result<Self, InstanceError> {
        let owner = options.owner_id()?;
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(InstanceError::NotRunning {
                    instance: options.instance.clone(),
                    owner: user_name(owner),
                    path,
                });
            }
            Err(source) => return Err(io_error("look at", &path, source)),
        };
        // A link or a file of another user in a world-writable parent is an attack or an accident;
        // neither is an instance.
        if !metadata.is_dir() || metadata.uid() != owner {
            return Err(InstanceError::WrongOwner {
                path,
                found: user_name(metadata.uid()),
                wanted: user_name(owner),
            });
        }
        Ok(Self {
            path,
            name: options.instance.clone(),
            inode: metadata.ino(),
        })
    }

    /// Mode 0700, or 2770 with the group: set-gid, so that whatever a member makes inside belongs to
    /// the group as well.
    fn set_access(&self, options: &InstanceOptions) -> Result<(), InstanceError> {
        let mode = match &options.group {
            None => 0o700,
            Some(group) => {
                let id = group_id(group).ok_or_else(|| InstanceError::UnknownGroup {
                    group: group.clone(),
                })?;
                rustix::fs::chown(&self.path, None, Some(Gid::from_raw(id))).map_err(|error| {
                    InstanceError::GroupNotOurs {
                        path: self.path.clone(),
                        group: group.clone(),
                        source: error.into(),
                    }
                })?;
                0o2770
            }
        };
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))
            .map_err(|source| io_error("set the permissions of", &self.path, source))
    }

    fn denied(&self, source: io::Error) -> InstanceError {
        let Ok(metadata) = fs::metadata(&self.path) else {
            return io_error("open", &self.path, source);
        };
        if source.kind() != io::ErrorKind::PermissionDenied {
            return io_error("open", &self.path, source);
        }
        if metadata.mode() & 0o070 == 0 {
            return InstanceError::OwnerOnly {
                instance: self.name.clone(),
                owner: user_name(metadata.uid()),
            };
        }
        InstanceError::NotInGroup {
            instance: self.name.clone(),
            group: group_name(metadata.gid()),
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of the instance.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True while the directory is the one that was found: not removed, not made anew.
    #[must_use]
    pub fn still_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode)
    }

    /// Bytes left on the file system of the instance.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.path).map_or(0, |stat| stat.f_bavail * stat.f_frsize)
    }

    /// True while there is enough left that ring slots can be written for the first time.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.free_bytes() >= ROOM_BYTES_MIN
    }

    /// # Errors
    /// When fewer than `need_bytes` are left.
    pub fn require_free(&self, need_bytes: u64) -> Result<(), InstanceError> {
        let free_bytes = self.free_bytes();
        if free_bytes < need_bytes {
            return Err(InstanceError::Full {
                path: self.path.parent().unwrap_or(&self.path).to_path_buf(),
                free_bytes,
                need_bytes,
            });
        }
        Ok(())
    }

    /// Takes a role, for as long as the lock lives.
    ///
    /// # Errors
    /// When another process has it.
    pub fn lock_role(&self, role: &str) -> Result<RoleLock, InstanceError> {
        let path = self.path.join(format!("{role}.lock"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o660)
            .open(&path)
            .map_err(|source| io_error("open", &path, source))?;
        let mut locked = flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive);
        for _ in 0..LOCK_TRIES {
            if locked != Err(Errno::WOULDBLOCK) {
                break;
            }
            // Perhaps only somebody in `role_is_held`, who has it for a moment.
            std::thread::sleep(LOCK_AGAIN_AFTER);
            locked = flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive);
        }
        match locked {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(InstanceError::AlreadyRunning {
                    role: role.to_owned(),
                    instance: self.name.clone(),
                    pid: self.role_holder(role).unwrap_or(0),
                });
            }
            Err(error) => return Err(io_error("lock", &path, error.into())),
        }
        fs::write(&path, std::process::id().to_string())
            .map_err(|source| io_error("write", &path, source))?;
        Ok(RoleLock { _file: file })
    }

    /// The process that has a role, or had it last.
    #[must_use]
    pub fn role_holder(&self, role: &str) -> Option<u64> {
        fs::read_to_string(self.path.join(format!("{role}.lock")))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// True while some process holds the role.
    #[must_use]
    pub fn role_is_held(&self, role: &str) -> bool {
        let Ok(file) = File::open(self.path.join(format!("{role}.lock"))) else {
            return false;
        };
        flock(file.as_fd(), FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    }

    /// Removes the directory and everything in it. Processes that still have parts of it mapped keep
    /// their memory; nobody new finds it.
    ///
    /// # Errors
    /// When something can not be removed.
    pub fn remove(&self) -> Result<(), InstanceError> {
        // A client that connects at this moment may add a file between the listing and the removal.
        for _ in 0..20 {
            match fs::remove_dir_all(&self.path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                Err(source) => return Err(io_error("remove", &self.path, source)),
            }
        }
        fs::remove_dir_all(&self.path).map_err(|source| io_error("remove", &self.path, source))
    }

    /// Removes what earlier processes left, keeping the directory and the role locks.
    ///
    /// # Errors
    /// When something can not be removed.
    pub fn sweep(&self) -> Result<(), InstanceError> {
        let entries =
            fs::read_dir(&self.path).map_err(|source| io_error("read", &self.path, source))?;
        for entry in entries.flatten() {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "lock")
            {
                continue;
            }
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|source| io_error("remove", &path, source))?;
        }
        Ok(())
    }
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> InstanceError {
    InstanceError::Io {
        what,
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &Path) -> InstanceOptions {
        InstanceOptions {
            dir: dir.to_path_buf(),
            ..InstanceOptions::new("t")
        }
    }

    #[test]
    fn made_opened_removed() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path());
        let error = Instance::open(&options).unwrap_err();
        assert!(error.to_string().contains("embedring up"), "{error}");
        let instance = Instance::create(&options).unwrap();
        let mode = fs::metadata(instance.path()).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700);
        Instance::open(&options).unwrap();
        assert!(instance.still_there());
        instance.remove().unwrap();
        assert!(!instance.still_there());
        instance.remove().unwrap();
    }

    #[test]
    fn a_link_is_no_instance() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path());
        std::os::unix::fs::symlink("/tmp", options.path().unwrap()).unwrap();
        assert!(matches!(
            Instance::create(&options),
            Err(InstanceError::WrongOwner { .. })
        ));
    }

    #[test]
    fn a_role_is_had_once() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::create(&options(dir.path())).unwrap();
        assert!(!instance.role_is_held("up"));
        let lock = instance.lock_role("up").unwrap();
        assert!(instance.role_is_held("up"));
        let error = instance.lock_role("up").unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
        drop(lock);
        instance.lock_role("up").unwrap();
    }

    #[test]
    fn unknown_names_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let with_group = InstanceOptions {
            group: Some("no-such-group".into()),
            ..options(dir.path())
        };
        assert!(matches!(
            Instance::create(&with_group),
            Err(InstanceError::UnknownGroup { .. })
        ));
        let with_owner = InstanceOptions {
            owner: Some("no such user".into()),
            ..options(dir.path())
        };
        assert!(matches!(
            Instance::open(&with_owner),
            Err(InstanceError::UnknownUser { .. })
        ));
    }

    #[test]
    fn a_full_file_system_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::create(&options(dir.path())).unwrap();
        let error = instance.require_free(u64::MAX).unwrap_err();
        assert!(error.to_string().contains("runtime.dir"), "{error}");
    }
}
