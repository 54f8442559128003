//! Names of devices.

use std::fmt;

/// Longest name of a simulated device.
const NAME_CHARS_MAX: usize = 32;
/// Longest identifier of a GPU: that of a slice of one, with its prefix.
const UUID_CHARS_MAX: usize = 52;

/// Where a worker computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// The cores of the machine: `cpu`.
    Cpu,
    /// An NVIDIA GPU: `cuda:0`, `cuda:GPU-…`.
    Cuda(Gpu),
    /// None: a worker that takes its time from a table of costs, `simulated` or `simulated:NAME`.
    Simulated(Option<String>),
}

/// Which GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gpu {
    /// By its number, as the driver counts.
    Index(u32),
    /// By the identifier that the driver gives it (`GPU-…`) or a slice of it (`MIG-…`): the same one
    /// whatever is plugged in beside it.
    Uuid(String),
}

impl Device {
    /// From the word in the configuration; `None` when it names no device.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "cpu" => Some(Self::Cpu),
            None if text == "simulated" => Some(Self::Simulated(None)),
            Some(("cuda", gpu)) => Gpu::parse(gpu).map(Self::Cuda),
            Some(("simulated", name)) if is_name(name) => {
                Some(Self::Simulated(Some(name.to_owned())))
            }
            None | Some(_) => None,
        }
    }

    /// The words for what [`Device::parse`] takes.
    pub(crate) const ALLOWED: &str =
        "cpu, cuda:N, cuda:GPU-…, cuda:MIG-…, simulated, simulated:NAME";
}

fn is_name(name: &str) -> bool {
    let plain = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    (1..=NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(plain)
}

impl Gpu {
    fn parse(text: &str) -> Option<Self> {
        if text.bytes().all(|c| c.is_ascii_digit()) {
            return text.parse().ok().map(Self::Index);
        }
        let is_uuid = (text.starts_with("GPU-") || text.starts_with("MIG-"))
            && (5..=UUID_CHARS_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'/'));
        is_uuid.then(|| Self::Uuid(text.to_owned()))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(Gpu::Index(index)) => write!(f, "cuda:{index}"),
            Self::Cuda(Gpu::Uuid(uuid)) => write!(f, "cuda:{uuid}"),
            Self::Simulated(None) => f.write_str("simulated"),
            Self::Simulated(Some(name)) => write!(f, "simulated:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_read_as_they_are_written() {
        for text in [
            "cpu",
            "cuda:0",
            "cuda:11",
            "cuda:GPU-4f1b2c3d-0000-1111-2222-333344445555",
            "cuda:MIG-GPU-4f1b2c3d-0000-1111-2222-333344445555/1/0",
            "simulated",
            "simulated:slow-1",
        ] {
            assert_eq!(Device::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_device_is_none() {
        for text in [
            "",
            "CPU",
            "cpu:0",
            "cuda",
            "cuda:",
            "cuda:-1",
            "cuda:99999999999",
            "cuda:GPU-",
            "cuda:GPU-a b",
            "gpu",
            "simulated:",
            "simulated:A",
            "cuda:0x1",
        ] {
            assert_eq!(Device::parse(text), None, "{text}");
        }
        assert_eq!(
            Device::parse(&format!("simulated:{}", "x".repeat(33))),
            None
        );
    }
}
