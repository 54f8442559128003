//! An allocator that ends the process when a parser asks for an absurd amount at once.
//!
//! libFuzzer's own `-malloc_limit_mb` is 2 GiB by default and works with the address sanitizer only.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator with a bound on a single allocation.
#[derive(Debug)]
pub struct Guard {
    /// Bytes at most.
    pub limit: usize,
}

impl Guard {
    fn check(&self, bytes: usize) {
        if bytes > self.limit {
            // Without a message made by `format!`, which would allocate. The stack is in the report.
            eprintln!("an allocation is larger than the guard allows");
            std::process::abort();
        }
    }
}

// SAFETY: everything is passed on to `System` unchanged.
unsafe impl GlobalAlloc for Guard {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.check(layout.size());
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.check(layout.size());
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        self.check(bytes);
        // SAFETY: the caller's promises are the same.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}
