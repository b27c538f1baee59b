//! How a kernel is spread over threads: numbered items, claimed one by one, and results written side by side.
//!
//! A forward pass is some hundred short parallel sections. Waking the threads of a pool for each costs more than many
//! of the sections take, so [`with_team`] keeps the pool's idle threads at hand: they wait for the next section by
//! watching a counter, and leave when the pass ends. A section never waits for a thread that has not come: whoever is
//! there claims items until none is left, the caller first of all.
//!
//! Invariant: what an item computes never depends on who claims it, so results do not depend on the threads.

use std::{
    cell::Cell,
    hint::spin_loop,
    ptr::null_mut,
    sync::atomic::{
        AtomicBool, AtomicPtr, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
    },
};

use rayon::prelude::*;

/// Looks at the counter, some 50 µs of them, before a waiting thread offers itself to other work.
const SPINS: u32 = 1000;

thread_local! {
    /// The team whose sections this thread opens, or null.
    static TEAM: Cell<*const Team> = const { Cell::new(std::ptr::null()) };
    /// Whether this thread is at work on an item of a team's section.
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
}

/// Runs `run` in the current rayon pool with the pool's other threads at hand for the kernels it calls, which is meant
/// for whole forward passes. While a kernel leaves them nothing to do, those threads take up other work of the pool.
/// `run` itself leaves the spreading of work to the kernels.
pub fn with_team<R: Send>(run: impl FnOnce() -> R + Send) -> R {
    let team = Team::default();
    rayon::scope(|scope| {
        if !TEAM.get().is_null() || AT_WORK.get() {
            return run();
        }
        for _ in 1..threads() {
            scope.spawn(|_| team.serve());
        }
        let _disband = Disband(&team);
        TEAM.set(&team);
        run()
    })
}

/// Runs `item` for `0..count`, on the threads of the current team or else of the current rayon pool.
pub(crate) fn for_each(count: usize, item: impl Fn(usize) + Sync + Send) {
    let team = TEAM.get();
    // An item that opens a section of its own runs it alone: waiting for the pool in there, it could come upon a task
    // that lasts until the team ends, which in turn waits for the item.
    if count <= 1 || AT_WORK.get() {
        (0..count).for_each(item);
    } else if team.is_null() {
        (0..count).into_par_iter().with_max_len(1).for_each(item);
    } else {
        // SAFETY: only `with_team` sets it, to a team that it keeps until it has reset it.
        unsafe { &*team }.section(&Section { next: AtomicUsize::new(0), count, item: &item });
    }
}

/// Threads that [`for_each`] may spread work over.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads()
}

/// Items to be claimed.
struct Section<'a> {
    next: AtomicUsize,
    count: usize,
    item: &'a (dyn Fn(usize) + Sync),
}

impl Section<'_> {
    /// Claims items until none is left.
    fn work(&self) {
        AT_WORK.set(true);
        let _rest = Rest;
        loop {
            let i = self.next.fetch_add(1, Relaxed);
            if i >= self.count {
                return;
            }
            (self.item)(i);
        }
    }
}

/// Marks the end of work on a section, also when an item panicked.
struct Rest;

impl Drop for Rest {
    fn drop(&mut self) {
        AT_WORK.set(false);
    }
}

/// What the threads of a team share, each part on a cache line of its own.
#[derive(Default)]
struct Team {
    /// Counts sections, so that waiting threads have something to watch.
    opened: Aligned<AtomicUsize>,
    /// The open section, or null.
    section: Aligned<AtomicPtr<Section<'static>>>,
    /// Threads that may be using the open section.
    inside: Aligned<AtomicUsize>,
    ended: Aligned<AtomicBool>,
}

#[derive(Default)]
#[repr(align(128))]
struct Aligned<T>(T);

impl Team {
    /// Opens a section, works on it, and closes it when all its items are done.
    fn section(&self, section: &Section<'_>) {
        self.section.0.store(std::ptr::from_ref(section).cast_mut().cast(), SeqCst);
        self.opened.0.fetch_add(1, Release);
        let _close = Close(self);
        section.work();
    }

    /// Works on sections until the team is disbanded.
    fn serve(&self) {
        // A thread that came upon this task while it waits for something a team needs must not stay.
        if !TEAM.get().is_null() || AT_WORK.get() {
            return;
        }
        let (mut seen, mut idle) = (0, 0);
        while !self.ended.0.load(Relaxed) {
            let opened = self.opened.0.load(Acquire);
            if opened == seen {
                idle += 1;
                if idle < SPINS {
                    spin_loop();
                } else if rayon::yield_now() != Some(rayon::Yield::Executed) {
                    std::thread::yield_now();
                }
                continue;
            }
            (seen, idle) = (opened, 0);
            self.inside.0.fetch_add(1, SeqCst);
            let _leave = Leave(self);
            let section = self.section.0.load(SeqCst);
            if !section.is_null() {
                // SAFETY: whoever closes a section takes the pointer away and then waits until nobody is inside. The
                // order of these four operations is the same for all threads, so either the pointer was gone here, or
                // this thread is waited for.
                unsafe { &*section }.work();
            }
        }
    }
}

/// Closes the open section, also when an item panicked.
struct Close<'a>(&'a Team);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.section.0.store(null_mut(), SeqCst);
        let mut spins = 0;
        while self.0.inside.0.load(SeqCst) != 0 {
            spins += 1;
            if spins < SPINS { spin_loop() } else { std::thread::yield_now() }
        }
    }
}

struct Leave<'a>(&'a Team);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.inside.0.fetch_sub(1, Release);
    }
}

/// Ends a team, also when its pass panicked.
struct Disband<'a>(&'a Team);

impl Drop for Disband<'_> {
    fn drop(&mut self) {
        TEAM.set(std::ptr::null());
        self.0.ended.0.store(true, Release);
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::{panic::AssertUnwindSafe, sync::atomic::AtomicU32};

    use super::*;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    /// Runs sections of many sizes and checks that each item ran once, before the section returned.
    fn sections() {
        for count in (0..300).chain([5000]) {
            let runs: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
            for_each(count, |i| _ = runs[i].fetch_add(1, Relaxed));
            assert!(runs.iter().all(|runs| runs.load(Relaxed) == 1), "{count}");
        }
    }

    #[test]
    fn every_item_runs_once_with_and_without_a_team() {
        for threads in [1, 2, 3, 8] {
            pool(threads).install(|| {
                sections();
                for _ in 0..20 {
                    with_team(sections);
                }
                with_team(|| with_team(sections));
                with_team(|| for_each(7, |_| sections()));
            });
        }
    }

    #[test]
    fn teams_of_one_pool_do_not_wait_for_each_other() {
        let pool = pool(2);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10).for_each(|_| pool.install(|| with_team(sections))));
            }
        });
    }

    #[test]
    fn a_panic_passes_on_and_leaves_the_pool_usable() {
        let pool = pool(3);
        for bad in [0, 40, 99] {
            let run = || {
                pool.install(|| {
                    with_team(|| for_each(100, |i| assert!(i != bad, "item {i}")));
                });
            };
            assert!(std::panic::catch_unwind(AssertUnwindSafe(run)).is_err());
            pool.install(|| with_team(sections));
        }
    }
}
