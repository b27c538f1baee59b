//! Time and memory of building a tree by the number of leaves:
//! `cargo run -p edgewise-summary-tree --example tree_scale -- 5000 20000 100000`.
//!
//! The leaves are made: 384 dimensions each, around centres that are themselves around fewer centres, as chunks are around
//! documents and documents around subjects; six sentences of made words each. Documents have twenty leaves. Summaries are
//! extractive; the embedder hashes words, which costs next to nothing: its time with a real model is the number of
//! summaries times what that model takes for one. What is neither summarising nor embedding nor storing is clustering, but
//! for a little hashing and copying. `again` is a second build, of which the store has every summary. Peak memory is that of the process, so it is the largest size's.

#![allow(clippy::print_stdout)]

use std::{
    collections::HashMap,
    fs, io,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use edgewise_model_api::{Embedder, EmbedderInfo, ModelError, Tokenizer};
use edgewise_summary_tree::{
    BuildEvent, Control, DocumentLeaves, Effort, Extractive, Halt, Leaf, RootMember, StoreError, SummariseError,
    Summariser, Summary, SummaryLimits, SummaryRequest, SummaryStore, SummaryText, TreeBuilder, TreeError, TreeOptions,
    leaf_ids,
};
use edgewise_types::{DocumentId, Member, SummaryKey};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIMS: usize = 384;
const LEAVES: usize = 20;

/// Nanoseconds, added up on any thread.
#[derive(Default)]
struct Clock(AtomicU64);

impl Clock {
    fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        self.0.fetch_add(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        done
    }

    fn seconds(&self) -> f64 {
        self.0.load(Ordering::Relaxed) as f64 / 1e9
    }
}

/// Tokens are words and marks.
struct Words;

impl Words {
    fn spans(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut chars = text.char_indices().peekable();
        std::iter::from_fn(move || {
            let (start, first) = chars.by_ref().find(|(_, c)| !c.is_whitespace())?;
            let mut end = start + first.len_utf8();
            while first.is_alphanumeric() && chars.peek().is_some_and(|(_, c)| c.is_alphanumeric()) {
                end = chars.next().map_or(end, |(at, c)| at + c.len_utf8());
            }
            Some(start..end)
        })
    }
}

impl Tokenizer for Words {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(vec![0; self.count(text)?])
    }
    fn offsets(&self, text: &str) -> Result<Vec<Range<usize>>, ModelError> {
        Ok(Self::spans(text).collect())
    }
    fn count(&self, text: &str) -> Result<usize, ModelError> {
        Ok(Self::spans(text).count())
    }
    fn decode(&self, _: &[u32]) -> Result<String, ModelError> {
        Err(ModelError::Tokenizer("words are not kept".to_owned()))
    }
}

/// Sums the directions of a text's words.
struct Hashing {
    info: EmbedderInfo,
    clock: Clock,
}

impl Embedder for Hashing {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }
    fn tokenizer(&self) -> &dyn Tokenizer {
        &Words
    }
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        let one = |text: &&str| {
            let mut vector = vec![1e-3f32; DIMS];
            for word in text.split_whitespace() {
                let hash = word
                    .bytes()
                    .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
                vector[(hash >> 8) as usize % DIMS] += if hash & 1 == 0 { 1.0 } else { -1.0 };
            }
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            vector.iter().map(|x| x / length).collect()
        };
        Ok(self.clock.run(|| texts.iter().map(one).collect()))
    }
}

#[derive(Default)]
struct Memory {
    kept: Mutex<HashMap<SummaryKey, Summary>>,
    clock: Clock,
}

impl Memory {
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<SummaryKey, Summary>) -> T) -> T {
        self.clock.run(|| work(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl SummaryStore for Memory {
    fn get(&self, key: &SummaryKey) -> Result<Option<Summary>, StoreError> {
        Ok(self.with(|kept| kept.get(key).cloned()))
    }
    fn put(&self, summary: &Summary) -> Result<(), StoreError> {
        self.with(|kept| kept.insert(summary.key, summary.clone()));
        Ok(())
    }
}

/// On one thread, so that its share is that of the whole time.
#[derive(Default)]
struct Timed {
    inner: Extractive,
    clock: Clock,
}

impl Summariser for Timed {
    fn identity(&self) -> String {
        self.inner.identity()
    }
    fn limits(&self) -> SummaryLimits {
        self.inner.limits()
    }
    fn summarise(&self, request: &SummaryRequest<'_>) -> Result<SummaryText, SummariseError> {
        self.clock.run(|| self.inner.summarise(request))
    }
    fn estimate(&self, source_tokens: usize) -> Effort {
        self.inner.estimate(source_tokens)
    }
    fn batch(&self) -> usize {
        self.inner.batch()
    }
}

struct Unattended;

impl Control for Unattended {
    fn step(&self, _: BuildEvent<'_>) -> Result<(), Halt> {
        Ok(())
    }
}

fn documents(rows: usize) -> Vec<DocumentLeaves> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut near = |centre: &[f32], spread: f32| -> Vec<f32> {
        centre.iter().map(|c| c + spread * random.random_range(-1.0..1.0)).collect()
    };
    let origin = vec![0.0; DIMS];
    let count = rows.div_ceil(LEAVES);
    let subjects: Vec<Vec<f32>> = (0..rows.div_ceil(1000)).map(|_| near(&origin, 1.0)).collect();
    let mut words = ChaCha8Rng::seed_from_u64(2);
    (0..count)
        .map(|number| {
            let uri = format!("document {number}");
            let id = DocumentId::from_uri(&uri);
            let centre = near(&subjects[number % subjects.len()], 0.7);
            let mut sentence = || {
                let mut word = |most: u32| format!("word{}", words.random_range(0..most));
                format!("The {} of Name{} has {} {} in {}.", word(50), number % 97, word(900), word(9000), word(400))
            };
            let texts: Vec<String> =
                (0..LEAVES).map(|_| (0..6).map(|_| sentence()).collect::<Vec<_>>().join(" ")).collect();
            let ids = leaf_ids(&id, texts.iter().map(|text| (&[][..], text.as_str())));
            let leaf = |(text, id): (String, _)| {
                let (heading_path, embedding) = (Vec::new(), near(&centre, 0.5));
                Leaf { id, heading_path, tokens: Words::spans(&text).count(), text, embedding }
            };
            let leaves = texts.into_iter().zip(ids).map(leaf).collect();
            DocumentLeaves { document: id, title: uri, leaves }
        })
        .collect()
}

/// Builds every document's tree and the layers above; the number of nodes.
fn build(builder: &TreeBuilder<'_>, documents: &[DocumentLeaves], store: &Memory) -> Result<usize, TreeError> {
    let mut roots = Vec::new();
    let mut nodes = 0;
    for document in documents {
        let part = builder.document(document, None)?;
        nodes += part.nodes.len();
        let root = part.nodes.iter().find(|node| part.root == Some(Member::Node(node.id)));
        let summary = root.and_then(|node| store.with(|kept| kept.get(&node.summary).cloned()));
        if let (Some(root), Some(summary)) = (root, summary) {
            roots.push(RootMember {
                document: document.document.clone(),
                title: document.title.clone(),
                member: Member::Node(root.id),
                former: None,
                level: root.level,
                text: summary.text,
                embedding: summary.embedding,
                tokens: summary.tokens,
            });
        }
    }
    Ok(nodes + builder.collection(&roots, None)?.nodes.len())
}

/// Most memory the process ever had, in MiB, where the system tells.
fn peak() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib / 1024)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sizes: Vec<usize> = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    if sizes.is_empty() {
        return Err(io::Error::other("name at least one number of leaves").into());
    }
    println!(
        "{:>8} {:>8} {:>8} {:>9} {:>11} {:>8} {:>8} {:>9} {:>6} {:>9}",
        "leaves",
        "nodes",
        "seconds",
        "us a leaf",
        "summarise %",
        "embed %",
        "store %",
        "cluster %",
        "again",
        "peak MiB"
    );
    for rows in sizes {
        let documents = documents(rows);
        let info =
            EmbedderInfo { model: "hashing".to_owned(), digest: String::new(), dimension: DIMS, max_tokens: 256 };
        let embedder = Hashing { info, clock: Clock::default() };
        let (store, summariser) = (Memory::default(), Timed::default());
        let builder = TreeBuilder {
            summariser: &summariser,
            embedder: &embedder,
            tokenizer: &Words,
            options: TreeOptions::default(),
            store: &store,
            control: &Unattended,
        };
        let begun = Instant::now();
        let nodes = build(&builder, &documents, &store)?;
        let seconds = begun.elapsed().as_secs_f64();
        let shares = [&summariser.clock, &embedder.clock, &store.clock].map(|clock| 100.0 * clock.seconds() / seconds);
        let begun = Instant::now();
        build(&builder, &documents, &store)?;
        let again = begun.elapsed().as_secs_f64();
        println!(
            "{rows:>8} {nodes:>8} {seconds:>8.1} {:>9.0} {:>11.1} {:>8.1} {:>8.1} {:>9.1} {again:>6.1} {:>9}",
            seconds * 1e6 / rows as f64,
            shares[0],
            shares[1],
            shares[2],
            100.0 - shares.iter().sum::<f64>(),
            peak().map_or_else(|| "?".to_owned(), |mib| mib.to_string()),
        );
    }
    Ok(())
}
