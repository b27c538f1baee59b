//! Doubly linked lists threaded through one array: every entry is in at most one list, and leaves it in constant time
//! wherever it stands. Entries are in order of their stamps, the time of last use, oldest first.

use std::time::Duration;

/// No entry, no list.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Entry {
    previous: u32,
    next: u32,
    list: u32,
    stamp: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
    length: u32,
}

const EMPTY: Ends = Ends { first: NONE, last: NONE, length: 0 };

/// A fixed number of entries and a growing number of lists.
#[derive(Debug)]
pub(crate) struct Lists {
    entries: Vec<Entry>,
    lists: Vec<Ends>,
}

impl Lists {
    pub(crate) fn new(entries: usize, lists: usize) -> Self {
        let loose = Entry { previous: NONE, next: NONE, list: NONE, stamp: Duration::ZERO };
        Self { entries: vec![loose; entries], lists: vec![EMPTY; lists] }
    }

    pub(crate) fn add_list(&mut self) -> u32 {
        self.lists.push(EMPTY);
        self.lists.len() as u32 - 1
    }

    pub(crate) fn entries(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn length(&self, list: u32) -> usize {
        self.lists[list as usize].length as usize
    }

    /// The list that an entry is in.
    pub(crate) fn list_of(&self, entry: u32) -> Option<u32> {
        Some(self.entries[entry as usize].list).filter(|&list| list != NONE)
    }

    pub(crate) fn stamp(&self, entry: u32) -> Duration {
        self.entries[entry as usize].stamp
    }

    /// The entries of a list, oldest first.
    pub(crate) fn iter(&self, list: u32) -> impl Iterator<Item = u32> {
        let mut at = self.lists[list as usize].first;
        std::iter::from_fn(move || {
            let entry = Some(at).filter(|&at| at != NONE)?;
            at = self.entries[entry as usize].next;
            Some(entry)
        })
    }

    /// Adds a loose entry at the end. `stamp` must be no earlier than those in the list.
    pub(crate) fn push(&mut self, list: u32, entry: u32, stamp: Duration) {
        self.link(list, entry, stamp, NONE);
    }

    /// Adds a loose entry at the beginning, for lists whose order is of no interest.
    pub(crate) fn push_first(&mut self, list: u32, entry: u32) {
        self.link(list, entry, Duration::ZERO, self.lists[list as usize].first);
    }

    /// Adds a loose entry behind all those with the same or an earlier stamp, searching from the beginning or, if it is
    /// in this list, from behind `hint`, whose stamp must be no later.
    pub(crate) fn insert(&mut self, list: u32, entry: u32, stamp: Duration, hint: Option<u32>) {
        let hint = hint.filter(|&hint| self.list_of(hint) == Some(list));
        let mut next = hint.map_or(self.lists[list as usize].first, |hint| self.entries[hint as usize].next);
        while next != NONE && self.entries[next as usize].stamp <= stamp {
            next = self.entries[next as usize].next;
        }
        self.link(list, entry, stamp, next);
    }

    fn link(&mut self, list: u32, entry: u32, stamp: Duration, next: u32) {
        debug_assert_eq!(self.entries[entry as usize].list, NONE, "already in a list");
        let ends = &mut self.lists[list as usize];
        ends.length += 1;
        let previous = if next == NONE { ends.last } else { self.entries[next as usize].previous };
        match previous {
            NONE => ends.first = entry,
            previous => self.entries[previous as usize].next = entry,
        }
        match next {
            NONE => ends.last = entry,
            next => self.entries[next as usize].previous = entry,
        }
        self.entries[entry as usize] = Entry { previous, next, list, stamp };
    }

    /// Takes an entry out of its list; nothing happens to a loose one.
    pub(crate) fn remove(&mut self, entry: u32) {
        let Entry { previous, next, list, .. } = self.entries[entry as usize];
        if list == NONE {
            return;
        }
        let ends = &mut self.lists[list as usize];
        ends.length -= 1;
        match previous {
            NONE => ends.first = next,
            previous => self.entries[previous as usize].next = next,
        }
        match next {
            NONE => ends.last = previous,
            next => self.entries[next as usize].previous = previous,
        }
        self.entries[entry as usize].list = NONE;
    }

    pub(crate) fn pop_first(&mut self, list: u32) -> Option<u32> {
        let first = self.iter(list).next()?;
        self.remove(first);
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against vectors: any pushes, ordered insertions and removals.
        #[test]
        fn lists_behave_like_vectors(operations in prop::collection::vec((0..4u8, 0..8u32, 0..2u32, 0..5u64), 0..60)) {
            let mut lists = Lists::new(8, 1);
            prop_assert_eq!(lists.add_list(), 1);
            let mut model: [Vec<(u32, u64)>; 2] = Default::default();
            for (operation, entry, list, stamp) in operations {
                let held = model.iter().any(|m| m.iter().any(|&(e, _)| e == entry));
                let vector = &mut model[list as usize];
                match operation {
                    0 if !held => {
                        let stamp = stamp.max(vector.last().map_or(0, |&(_, s)| s));
                        lists.push(list, entry, Duration::from_secs(stamp));
                        vector.push((entry, stamp));
                    }
                    1 if !held => {
                        let at = vector.partition_point(|&(_, s)| s <= stamp);
                        // Any entry in front of the place is a fair hint, and so is one of another list.
                        let hint = at.checked_sub(1).map(|i| vector[i / 2].0).or(model[1 - list as usize].first().map(|e| e.0));
                        lists.insert(list, entry, Duration::from_secs(stamp), hint);
                        model[list as usize].insert(at, (entry, stamp));
                    }
                    2 => {
                        lists.remove(entry);
                        model.iter_mut().for_each(|m| m.retain(|&(e, _)| e != entry));
                    }
                    3 => {
                        let first = (!vector.is_empty()).then(|| vector.remove(0).0);
                        prop_assert_eq!(lists.pop_first(list), first);
                    }
                    _ => {}
                }
                for (list, vector) in model.iter().enumerate() {
                    let entries: Vec<u32> = vector.iter().map(|&(e, _)| e).collect();
                    prop_assert_eq!(lists.iter(list as u32).collect::<Vec<_>>(), entries);
                    prop_assert_eq!(lists.length(list as u32), vector.len());
                    prop_assert!(vector.iter().all(|&(e, _)| lists.list_of(e) == Some(list as u32)));
                }
            }
        }
    }
}
