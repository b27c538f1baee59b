//! One layer of a graph: a table of nodes and their links.
//!
//! Deliberately not here: what is near what.

/// Nodes are numbered in the order in which they were inserted.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Layer {
    /// Row of each node.
    pub(crate) rows: Vec<u32>,
    /// Its number in the layer below; empty for the lowest.
    pub(crate) below: Vec<u32>,
    /// Room for links of a node.
    degree: usize,
    counts: Vec<u16>,
    /// `degree` places a node, of which the first `counts` are links and the others 0.
    to: Vec<u32>,
}

impl Layer {
    /// An empty layer whose nodes have up to `degree` links.
    pub(crate) fn new(degree: usize) -> Self {
        Self { degree, ..Self::default() }
    }

    /// Links a node may have.
    pub(crate) fn degree(&self) -> usize {
        self.degree
    }

    /// Adds a node without links, and returns its number. `below` is its number in the layer below, if there is one.
    pub(crate) fn push(&mut self, row: u32, below: Option<u32>) -> u32 {
        let node = self.rows.len() as u32;
        self.rows.push(row);
        self.below.extend(below);
        self.counts.push(0);
        self.to.resize(self.to.len() + self.degree, 0);
        node
    }

    /// Nodes that a node links to.
    #[inline]
    pub(crate) fn links(&self, node: u32) -> &[u32] {
        let start = node as usize * self.degree;
        &self.to[start..start + usize::from(self.counts[node as usize])]
    }

    /// Replaces a node's links; no more than the degree are kept.
    pub(crate) fn set_links(&mut self, node: u32, links: &[u32]) {
        let links = &links[..links.len().min(self.degree)];
        let start = node as usize * self.degree;
        let (kept, free) = self.to[start..start + self.degree].split_at_mut(links.len());
        kept.copy_from_slice(links);
        free.fill(0);
        self.counts[node as usize] = links.len() as u16;
    }

    pub(crate) fn bytes(&self) -> usize {
        (self.rows.capacity() + self.below.capacity() + self.to.capacity()) * 4 + self.counts.capacity() * 2
    }

    /// Whether all numbers are within their tables. `below` is the layer below, if there is one.
    pub(crate) fn check(&self, below: Option<&Self>) -> Result<(), &'static str> {
        let nodes = self.rows.len();
        let below_fits = match below {
            None => self.below.is_empty(),
            Some(layer) => {
                let pairs = self.below.iter().zip(&self.rows);
                self.below.len() == nodes
                    && pairs.into_iter().all(|(below, row)| layer.rows.get(*below as usize) == Some(row))
            }
        };
        let tables_fit = self.counts.len() == nodes
            && nodes.checked_mul(self.degree) == Some(self.to.len())
            && self.counts.iter().all(|count| usize::from(*count) <= self.degree);
        if !below_fits || !tables_fit {
            return Err("its tables do not fit together");
        }
        if self.to.iter().any(|to| *to as usize >= nodes) {
            return Err("it links to nodes that are not there");
        }
        Ok(())
    }

    /// As numbers, for a file: nodes, degree, then rows, nodes below, counts and links.
    pub(crate) fn to_numbers(&self) -> impl Iterator<Item = u32> + '_ {
        let head = [self.rows.len() as u32, self.below.len() as u32, self.degree as u32];
        let counts = self.counts.iter().map(|count| u32::from(*count));
        let tables = self.rows.iter().copied().chain(self.below.iter().copied()).chain(counts);
        head.into_iter().chain(tables).chain(self.to.iter().copied())
    }

    /// Reads what [`Self::to_numbers`] gave; `None` if it is not that. Not yet checked.
    pub(crate) fn from_numbers(numbers: &mut &[u32]) -> Option<Self> {
        let mut take = |count: usize| -> Option<Vec<u32>> {
            let (taken, rest) = numbers.split_at_checked(count)?;
            *numbers = rest;
            Some(taken.to_vec())
        };
        let head = take(3)?;
        let [nodes, below, degree] = [head[0] as usize, head[1] as usize, head[2] as usize];
        let (rows, below) = (take(nodes)?, take(below)?);
        let counts = take(nodes)?.into_iter().map(|count| u16::try_from(count).ok()).collect::<Option<_>>()?;
        let to = take(nodes.checked_mul(degree)?)?;
        Some(Self { rows, below, degree, counts, to })
    }
}
