//! Names of pages, and what the engine is asked to do to their contents.

/// Index of a page in the engine's page storage. A page holds the keys and values, of every layer, of a fixed number of
/// successive positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId(pub u32);

/// Index of a page-sized slot in the host-memory tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostSlot(pub u32);

/// A change to page contents. Moves are executed in the order they are given out, all of them before the next forward
/// pass: a later move may overwrite what an earlier one reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Copy the first `tokens` positions of `from` to `to`.
    Copy {
        /// Source.
        from: PageId,
        /// Destination.
        to: PageId,
        /// Positions, at most a page's worth.
        tokens: usize,
    },
    /// Copy a whole page to the host tier.
    ToHost {
        /// Source.
        page: PageId,
        /// Destination.
        slot: HostSlot,
    },
    /// Copy a whole page back from the host tier.
    FromHost {
        /// Source.
        slot: HostSlot,
        /// Destination.
        page: PageId,
    },
}
