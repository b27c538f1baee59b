//! The block pool: reference counts, and which pages are free or may be evicted.
//!
//! A page is *free* (holds nothing), *used* (a sequence refers to it) or *cached* (nobody refers to it, but the tree
//! knows what it holds). Free pages are in one list; cached pages are in the list of unretained pages or in a list of
//! the account and priority they are retained under; used pages are in none.

use std::time::Duration;

use crate::{PageId, Priority, budget::AccountId, list::Lists, tree::NodeId};

const FREE: u32 = 0;
const UNRETAINED: u32 = 1;

/// A list of cached pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shelf {
    Unretained,
    Retained(AccountId, Priority),
}

impl Shelf {
    fn list(self) -> u32 {
        match self {
            Self::Unretained => UNRETAINED,
            Self::Retained(account, priority) => UNRETAINED + 1 + 2 * account.0 + priority as u32,
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Page {
    references: u32,
    node: Option<NodeId>,
}

/// The pool.
#[derive(Debug)]
pub(crate) struct Pool {
    pages: Vec<Page>,
    lists: Lists,
    used: usize,
}

impl Pool {
    /// A pool of free pages, handed out in ascending order at first.
    pub(crate) fn new(pages: usize) -> Self {
        let mut lists = Lists::new(pages, 2);
        for page in 0..pages as u32 {
            lists.push(FREE, page, Duration::ZERO);
        }
        Self { pages: vec![Page::default(); pages], lists, used: 0 }
    }

    /// Must be called once for each account, in order.
    pub(crate) fn add_account(&mut self) {
        self.lists.add_list();
        self.lists.add_list();
    }

    pub(crate) fn total(&self) -> usize {
        self.pages.len()
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    pub(crate) fn free(&self) -> usize {
        self.lists.length(FREE)
    }

    pub(crate) fn references(&self, page: PageId) -> u32 {
        self.pages[page.0 as usize].references
    }

    /// What the tree knows it as.
    pub(crate) fn node(&self, page: PageId) -> Option<NodeId> {
        self.pages[page.0 as usize].node
    }

    pub(crate) fn set_node(&mut self, page: PageId, node: Option<NodeId>) {
        self.pages[page.0 as usize].node = node;
    }

    /// A free page, with one reference from now on.
    pub(crate) fn take(&mut self) -> Option<PageId> {
        let page = self.lists.pop_first(FREE)?;
        self.pages[page as usize] = Page { references: 1, node: None };
        self.used += 1;
        Some(PageId(page))
    }

    /// One more reference.
    pub(crate) fn acquire(&mut self, page: PageId) {
        let entry = &mut self.pages[page.0 as usize];
        entry.references += 1;
        if entry.references == 1 {
            self.used += 1;
            self.lists.remove(page.0);
        }
    }

    /// One reference less. True if it was the last: the page must then be shelved or freed.
    #[must_use]
    pub(crate) fn release(&mut self, page: PageId) -> bool {
        let entry = &mut self.pages[page.0 as usize];
        debug_assert!(entry.references > 0, "released once too often");
        entry.references -= 1;
        if entry.references == 0 {
            self.used -= 1;
        }
        entry.references == 0
    }

    /// Makes an unreferenced page free.
    pub(crate) fn make_free(&mut self, page: PageId) {
        debug_assert_eq!(self.references(page), 0, "freed while referred to");
        self.lists.remove(page.0);
        self.pages[page.0 as usize].node = None;
        // First out, while it is warm.
        self.lists.push_first(FREE, page.0);
    }

    /// Puts a page that has just been released on a shelf.
    pub(crate) fn shelve(&mut self, page: PageId, shelf: Shelf, now: Duration) {
        self.lists.push(shelf.list(), page.0, now);
    }

    /// Moves a cached page to the shelf it belongs on by now, in order of last use. `hint` is a page that was moved just
    /// before it and was last used no later.
    pub(crate) fn reshelve(&mut self, page: PageId, shelf: Shelf, hint: Option<PageId>) {
        if self.lists.list_of(page.0).is_some_and(|list| list != shelf.list()) {
            let stamp = self.lists.stamp(page.0);
            self.lists.remove(page.0);
            self.lists.insert(shelf.list(), page.0, stamp, hint.map(|page| page.0));
        }
    }

    /// The pages on a shelf with the time of their last use, oldest first.
    pub(crate) fn shelf(&self, shelf: Shelf) -> impl Iterator<Item = (PageId, Duration)> {
        self.lists.iter(shelf.list()).map(|page| (PageId(page), self.lists.stamp(page)))
    }

    /// Whether the page is on that shelf.
    #[cfg(test)]
    pub(crate) fn is_on(&self, page: PageId, shelf: Shelf) -> bool {
        self.lists.list_of(page.0) == Some(shelf.list())
    }

    /// Whether the page is free.
    #[cfg(test)]
    pub(crate) fn is_free(&self, page: PageId) -> bool {
        self.lists.list_of(page.0) == Some(FREE)
    }
}
