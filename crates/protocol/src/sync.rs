//! The atomics of shared memory. Everything that another process can see goes through these types,
//! so that a model checker can replace what is inside in one place.

pub use std::sync::atomic::{Ordering, fence};

macro_rules! atomic {
    ($(#[$doc:meta])* $name:ident, $value:ty) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name(
            #[expect(clippy::disallowed_types, reason = "the one place that names the standard type")]
            std::sync::atomic::$name,
        );

        #[expect(clippy::disallowed_types, reason = "the one place that names the standard type")]
        impl $name {
            /// A value of its own, for tests and for memory that is not shared.
            #[must_use]
            pub const fn new(value: $value) -> Self {
                Self(std::sync::atomic::$name::new(value))
            }

            /// The value.
            #[must_use]
            pub fn load(&self, order: Ordering) -> $value {
                self.0.load(order)
            }

            /// Replaces the value.
            pub fn store(&self, value: $value, order: Ordering) {
                self.0.store(value, order);
            }

            /// Adds, and gives the value before.
            pub fn fetch_add(&self, by: $value, order: Ordering) -> $value {
                self.0.fetch_add(by, order)
            }

            /// Subtracts, and gives the value before.
            pub fn fetch_sub(&self, by: $value, order: Ordering) -> $value {
                self.0.fetch_sub(by, order)
            }

            /// Raises to at least `value`, and gives the value before.
            pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                self.0.fetch_max(value, order)
            }

            /// Replaces `current` by `new`.
            ///
            /// # Errors
            /// The value found, when it was not `current`.
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.0.compare_exchange(current, new, success, failure)
            }

            /// The standard atomic, for system calls that take its address.
            #[must_use]
            pub fn as_std(&self) -> &std::sync::atomic::$name {
                &self.0
            }
        }
    };
}

atomic!(
    /// A word of eight bytes that other processes see.
    AtomicU64,
    u64
);
atomic!(
    /// A word of four bytes that other processes see, as futexes want it.
    AtomicU32,
    u32
);
