//! Which instructions kernels use, found out once.

use crate::simd::Portable;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};

/// A set of instructions that this machine has, so that kernels may use them.
#[derive(Clone, Copy, Debug)]
pub struct Level(pub(crate) Unit);

/// The proof that goes with each level.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unit {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2<false>),
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni(Avx2<true>),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512<false>),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512<true>),
}

/// Why there is no such level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// No level has this name.
    #[error("'{name}' is no instruction level; there are {}", Level::NAMES.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The machine lacks its instructions.
    #[error("this machine does not have the instructions of '{name}'; it has {}", Level::available_names().join(", "))]
    Missing {
        /// What was asked for.
        name: String,
    },
}

impl Level {
    /// Names of all levels, the slowest first.
    pub const NAMES: [&'static str; 5] = ["portable", "avx2", "avx2-vnni", "avx512", "avx512-bf16"];

    /// The levels this machine has, the slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        #[cfg_attr(
            not(target_arch = "x86_64"),
            expect(unused_mut, reason = "only one level")
        )]
        let mut levels = vec![Self(Unit::Portable(Portable))];
        #[cfg(target_arch = "x86_64")]
        levels.extend(x86_levels().into_iter().map(Self));
        levels
    }

    /// The fastest level this machine has.
    ///
    /// Intel's processors have an instruction for bf16, but it does half as much as the f32 one does
    /// (87 against 190 GFLOP/s a thread on a Sapphire Rapids): there the level without it is faster.
    #[must_use]
    pub fn best() -> Self {
        let slow = |level: &Self| level.multiplies_bf16() && is_intel();
        let fast = |level: &Self| !slow(level);
        let best = Self::available().into_iter().rfind(fast);
        best.unwrap_or(Self(Unit::Portable(Portable)))
    }

    /// The level of that name.
    ///
    /// # Errors
    /// [`LevelError`] when there is none or the machine lacks it.
    pub fn by_name(name: &str) -> Result<Self, LevelError> {
        if let Some(level) = Self::available().into_iter().find(|l| l.name() == name) {
            return Ok(level);
        }
        let name = name.to_owned();
        Err(if Self::NAMES.contains(&name.as_str()) {
            LevelError::Missing { name }
        } else {
            LevelError::Unknown { name }
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Unit::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Unit::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Unit::Avx2Vnni(_) => "avx2-vnni",
            #[cfg(target_arch = "x86_64")]
            Unit::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Unit::Avx512Bf16(_) => "avx512-bf16",
        }
    }

    /// Whether it multiplies bf16 as such, instead of making f32 of them first.
    #[must_use]
    pub fn multiplies_bf16(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Unit::Avx512Bf16(_) => true,
            _ => false,
        }
    }

    fn available_names() -> Vec<&'static str> {
        Self::available().into_iter().map(Self::name).collect()
    }
}

impl PartialEq for Level {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Level {}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

fn is_intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let maker = std::arch::x86_64::__cpuid(0);
        [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes) == [*b"Genu", *b"ineI", *b"ntel"]
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(target_arch = "x86_64")]
fn x86_levels() -> Vec<Unit> {
    macro_rules! has {
        ($($feature:tt),*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    let mut units = Vec::new();
    if has!("avx2", "fma") {
        // SAFETY: just found.
        units.push(Unit::Avx2(unsafe { Avx2::new() }));
        if has!("avxvnni") {
            // SAFETY: just found.
            units.push(Unit::Avx2Vnni(unsafe { Avx2::new() }));
        }
    }
    if has!("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni") {
        // SAFETY: just found.
        units.push(Unit::Avx512(unsafe { Avx512::new() }));
        if has!("avx512bf16") {
            // SAFETY: just found.
            units.push(Unit::Avx512Bf16(unsafe { Avx512::new() }));
        }
    }
    units
}

/// Runs `$body` compiled for `$level`, with the proof of the unit as `$simd`.
macro_rules! dispatch {
    ($level:expr, $simd:ident => $body:expr) => {{
        use $crate::level::Unit;
        use $crate::simd::Simd as _;
        match $level.0 {
            Unit::Portable($simd) => $simd.run(
                #[inline(always)]
                || $body,
            ),
            #[cfg(target_arch = "x86_64")]
            Unit::Avx2($simd) => $simd.run(
                #[inline(always)]
                || $body,
            ),
            #[cfg(target_arch = "x86_64")]
            Unit::Avx2Vnni($simd) => $simd.run(
                #[inline(always)]
                || $body,
            ),
            #[cfg(target_arch = "x86_64")]
            Unit::Avx512($simd) => $simd.run(
                #[inline(always)]
                || $body,
            ),
            #[cfg(target_arch = "x86_64")]
            Unit::Avx512Bf16($simd) => $simd.run(
                #[inline(always)]
                || $body,
            ),
        }
    }};
}
pub(crate) use dispatch;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_by_name() {
        assert_eq!(Level::available()[0].name(), "portable");
        for level in Level::available() {
            assert_eq!(Level::by_name(level.name()), Ok(level));
        }
        assert!(Level::available().contains(&Level::best()));
        let unknown = Level::by_name("mmx").unwrap_err().to_string();
        assert!(unknown.contains("avx2-vnni"), "{unknown}");
    }
}
