//! Made documents, a store in memory, and controls that end a build.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use edgewise_model_api::{Embedder, Tokenizer};
use edgewise_summary_tree::{
    BuildEvent, Control, DocumentLeaves, Effort, Extractive, Halt, Leaf, RootMember, StoreError, SummariseError,
    Summariser, Summary, SummaryLimits, SummaryRequest, SummaryStore, SummaryText, TreeBuilder, TreeOptions, TreePart,
    leaf_ids,
};
use edgewise_test_support::{HashEmbedder, WordTokenizer};
use edgewise_types::{DocumentId, Member, SummaryKey};

/// `count` words in sentences of eight, decided by `seed`; neighbouring seeds share a subject.
pub(crate) fn words(seed: usize, count: usize) -> String {
    const SUBJECTS: &[&str] = &["harbour", "hive", "engine", "glacier", "theatre", "orchard", "railway", "library"];
    let mut state = seed as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let subject = SUBJECTS[seed / 5 % SUBJECTS.len()];
    let mut text = String::new();
    for word in 0..count {
        match word % 8 {
            0 => text.push_str("The "),
            1 => text.push_str(&format!("{subject} ")),
            7 => text.push_str(&format!("w{}. ", next() % 300)),
            _ => text.push_str(&format!("{subject}{} ", next() % 60)),
        }
    }
    text.trim_end().to_owned()
}

pub(crate) fn leaf(uri: &str, at: usize, text: &str) -> Leaf {
    let heading_path = vec![format!("Section {}", at / 10)];
    let id = leaf_ids(&DocumentId::from_uri(uri), [(heading_path.as_slice(), text)])[0];
    let embedding = HashEmbedder::new().embed(&[text]).unwrap().remove(0);
    let tokens = WordTokenizer::new().count(text).unwrap();
    Leaf { id, heading_path, text: text.to_owned(), embedding, tokens }
}

pub(crate) fn document(uri: &str, leaves: usize, seed: usize) -> DocumentLeaves {
    let leaves = (0..leaves).map(|at| leaf(uri, at, &words(seed * 1000 + at, 48))).collect();
    DocumentLeaves { document: DocumentId::from_uri(uri), title: uri.to_owned(), leaves }
}

pub(crate) fn root(document: &DocumentLeaves, part: &TreePart, store: &Memory) -> RootMember {
    let member = part.root.expect("a document has a root");
    let (level, text, embedding, tokens) = match member {
        Member::Leaf(_) => {
            let leaf = &document.leaves[0];
            (0, leaf.text.clone(), leaf.embedding.clone(), leaf.tokens)
        }
        Member::Node(id) => {
            let node = part.nodes.iter().find(|node| node.id == id).expect("the root is a node");
            let summary = store.get(&node.summary).unwrap().expect("its summary is kept");
            (node.level, summary.text, summary.embedding, summary.tokens)
        }
    };
    let (title, document) = (document.title.clone(), document.document.clone());
    RootMember { document, title, member, former: None, level, text, embedding, tokens }
}

static TOKENIZER: std::sync::LazyLock<WordTokenizer> = std::sync::LazyLock::new(WordTokenizer::new);

pub(crate) fn builder<'a>(
    embedder: &'a HashEmbedder,
    summariser: &'a dyn Summariser,
    store: &'a Memory,
    control: &'a dyn Control,
) -> TreeBuilder<'a> {
    TreeBuilder { summariser, embedder, tokenizer: &*TOKENIZER, options: TreeOptions::default(), store, control }
}

/// Keeps summaries in memory, and can refuse one.
#[derive(Default)]
pub(crate) struct Memory {
    kept: Mutex<BTreeMap<SummaryKey, Summary>>,
    puts: AtomicUsize,
    fail_at: Mutex<Option<usize>>,
}

impl Memory {
    pub(crate) fn failing_at(put: usize) -> Self {
        Self { fail_at: Mutex::new(Some(put)), ..Self::default() }
    }

    pub(crate) fn puts(&self) -> usize {
        self.puts.load(Ordering::SeqCst)
    }

    pub(crate) fn all(&self) -> BTreeMap<SummaryKey, Summary> {
        self.kept.lock().unwrap().clone()
    }
}

impl SummaryStore for Memory {
    fn get(&self, key: &SummaryKey) -> Result<Option<Summary>, StoreError> {
        Ok(self.kept.lock().unwrap().get(key).cloned())
    }

    fn put(&self, summary: &Summary) -> Result<(), StoreError> {
        let mut fail_at = self.fail_at.lock().unwrap();
        if *fail_at == Some(self.puts()) {
            *fail_at = None;
            return Err(StoreError("the disk is full".into()));
        }
        let former = self.kept.lock().unwrap().insert(summary.key, summary.clone());
        assert!(former.is_none(), "a summary was made twice");
        self.puts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Ends a build after so many events.
pub(crate) struct Stopping(AtomicUsize);

impl Stopping {
    pub(crate) fn after(steps: usize) -> Self {
        Self(AtomicUsize::new(steps))
    }
}

impl Control for Stopping {
    fn step(&self, _: BuildEvent<'_>) -> Result<(), Halt> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(|_| ()).map_err(|_| Halt::Cancelled)
    }
}

/// The extractive summariser, one summary at a time, counted.
#[derive(Default)]
pub(crate) struct OneByOne(Extractive, AtomicUsize);

impl OneByOne {
    /// Summaries made since the last call.
    pub(crate) fn made(&self) -> usize {
        self.1.swap(0, Ordering::SeqCst)
    }
}

impl Summariser for OneByOne {
    fn identity(&self) -> String {
        self.0.identity()
    }
    fn limits(&self) -> SummaryLimits {
        self.0.limits()
    }
    fn summarise(&self, request: &SummaryRequest<'_>) -> Result<SummaryText, SummariseError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.summarise(request)
    }
    fn estimate(&self, source_tokens: usize) -> Effort {
        self.0.estimate(source_tokens)
    }
}
