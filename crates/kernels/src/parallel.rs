//! How a kernel is spread over threads: numbered items, claimed one by one, and results written side by side.
//!
//! Invariant: what an item computes never depends on who claims it, so results do not depend on the threads.

use rayon::prelude::*;

/// Runs `item` for `0..count`, on the threads of the current rayon pool.
pub(crate) fn for_each(count: usize, item: impl Fn(usize) + Sync + Send) {
    if count <= 1 {
        (0..count).for_each(item);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(item);
    }
}

/// Threads that [`for_each`] may spread work over.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads()
}

/// A result that several threads write, each to elements of its own.
pub(crate) struct SharedSlice<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: it stands for the exclusively borrowed slice it was made from, which outlives the work items; each of them
// touches through it elements that no other one does.
unsafe impl<T: Send> Send for SharedSlice<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedSlice<T> {}

impl<T> Clone for SharedSlice<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedSlice<T> {}

impl<T> SharedSlice<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// Writes `values` from element `at` on.
    #[inline(always)]
    pub(crate) fn write(self, at: usize, values: &[T])
    where
        T: Copy,
    {
        assert!(at + values.len() <= self.len, "a result was written outside its buffer");
        // SAFETY: the range lies within the slice, as was just checked, and belongs to this work item alone.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.start.add(at), values.len()) }
    }

    /// Elements `at..at + count`.
    ///
    /// # Safety
    /// No other work item may touch them while the slice lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part<'a>(self, at: usize, count: usize) -> &'a mut [T] {
        assert!(at + count <= self.len, "a result was written outside its buffer");
        // SAFETY: the range lies within the slice, as was just checked, and the caller keeps others off it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), count) }
    }
}
