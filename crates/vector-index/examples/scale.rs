//! Measures the index at scale:
//!
//! ```console
//! cargo run --release -p edgewise-vector-index --example scale -- [--vectors N] [--seeds FILE | --hard] [--write DIR] \
//!     [--hnsw-rs N] [--only-largest]
//! ```
//!
//! Printed: memory bandwidth of this machine, and for growing sizes how long scans of floats and of codes take against
//! what reading their bytes must take, how long the graph takes, and what share of the exact ten nearest it finds; then,
//! for all vectors, memory, filters, tombstones and snapshots.
//!
//! Vectors, all of 384 dimensions and length 1:
//! - `--seeds FILE`: real embeddings (the cache that `edgewise eval retrieval` keeps). Every vector is `a + u·(b − a) +
//!   0.5·(c − d)`, with `a` a seed, `b` one of its 16 nearest, `u` uniform in 0..1, and `c`, `d` another such pair: so
//!   near ones differ as neighbours among real embeddings do. A tenth of the seeds is left out and used as queries.
//! - `--hard`: a 96-dimensional normal distribution in random directions, without clusters; more directions, and less to
//!   hold on to, than embeddings have. Queries are drawn alike.
//! - otherwise: points of a 32-dimensional space around 200 centres, mixed into all dimensions, plus noise.
//!
//! `--only-largest` leaves the smaller sizes out.
//! `--hnsw-rs N` measures the crate of that name on the first N vectors.
//! `--write DIR` leaves vectors and queries there as little-endian `f32`, for other programs to be measured on.
#![allow(clippy::print_stdout)]

use std::{
    error::Error,
    fs,
    hint::black_box,
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use edgewise_types::ChunkId;
use edgewise_vector_index::{GraphOptions, Method, VectorHit, VectorIndex};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIMENSION: usize = 384;
const HITS: usize = 10;
const QUERIES: usize = 300;
const SIZES: [usize; 5] = [5_000, 10_000, 20_000, 50_000, 100_000];
const EFS: [usize; 6] = [20, 40, 80, 120, 160, 320];

type Vector = Vec<f32>;
/// Hits of each query.
type Hits = Vec<Vec<VectorHit>>;
type Filter = dyn Fn(ChunkId) -> bool + Sync;

/// About normal, by the sum of four uniform numbers.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    (0..4).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>() * 0.866
}

fn unit(mut vector: Vector) -> Vector {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= norm);
    vector
}

/// Sums of the columns of `mixing`, weighted by `point`.
fn mix(mixing: &[Vector], point: &[f32]) -> Vector {
    mixing.iter().map(|row| row.iter().zip(point).map(|(a, b)| a * b).sum()).collect()
}

/// `count` vectors and the queries.
fn hard(count: usize) -> (Vec<Vector>, Vec<Vector>) {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mixing: Vec<Vector> = (0..DIMENSION).map(|_| (0..96).map(|_| normal(&mut rng)).collect()).collect();
    let mut draw = |count: usize| -> Vec<Vector> {
        (0..count).map(|_| unit(mix(&mixing, &(0..96).map(|_| normal(&mut rng)).collect::<Vector>()))).collect()
    };
    (draw(count), draw(QUERIES))
}

fn clustered(count: usize) -> (Vec<Vector>, Vec<Vector>) {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut rows =
        |count: usize| -> Vec<Vector> { (0..count).map(|_| (0..32).map(|_| normal(&mut rng)).collect()).collect() };
    let (centres, mixing) = (rows(200), rows(DIMENSION));
    let mut draw = |count: usize| -> Vec<Vector> {
        (0..count)
            .map(|_| {
                let centre = &centres[rng.random_range(0..centres.len())];
                let point: Vector = centre.iter().map(|x| x + 0.7 * normal(&mut rng)).collect();
                unit(mix(&mixing, &point).into_iter().map(|x| x + 1.5 * normal(&mut rng)).collect())
            })
            .collect()
    };
    (draw(count), draw(QUERIES))
}

/// Reads the embeddings of a cache file: a line, then records of 32 bytes, a vector, and 8 bytes.
fn read_seeds(path: &Path) -> Result<Vec<Vector>, Box<dyn Error>> {
    let bytes = fs::read(path)?;
    let start = bytes.iter().position(|byte| *byte == b'\n').ok_or("no embeddings file")? + 1;
    let records = bytes[start..].chunks_exact(32 + DIMENSION * 4 + 8);
    let vector = |record: &[u8]| {
        let values = record[32..32 + DIMENSION * 4].as_chunks::<4>().0;
        unit(values.iter().map(|value| f32::from_le_bytes(*value)).collect())
    };
    Ok(records.map(vector).collect())
}

fn from_seeds(count: usize, path: &Path) -> Result<(Vec<Vector>, Vec<Vector>), Box<dyn Error>> {
    let all = read_seeds(path)?;
    let (queries, seeds): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(at, _)| at % 10 == 0);
    let plain = |pairs: Vec<(usize, Vector)>| pairs.into_iter().map(|(_, vector)| vector).collect::<Vec<_>>();
    let (mut queries, seeds) = (plain(queries), plain(seeds));
    queries.truncate(QUERIES);
    let mut index = VectorIndex::new(DIMENSION, "seeds");
    for (at, seed) in seeds.iter().enumerate() {
        index.insert(ChunkId(at as u64), seed)?;
    }
    let mut near = Vec::with_capacity(seeds.len());
    for seed in &seeds {
        near.push(index.search(seed, 17, None)?.iter().map(|hit| hit.chunk.0 as usize).collect::<Vec<_>>());
    }
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut pair = || {
        let a = rng.random_range(0..seeds.len());
        (a, near[a][rng.random_range(1..near[a].len())], rng.random_range(0.0f32..1.0))
    };
    let vectors = (0..count)
        .map(|_| {
            let ((a, b, u), (c, d, _)) = (pair(), pair());
            let value =
                |at: usize| seeds[a][at] + u * (seeds[b][at] - seeds[a][at]) + 0.5 * (seeds[c][at] - seeds[d][at]);
            unit((0..DIMENSION).map(value).collect())
        })
        .collect();
    Ok((vectors, queries))
}

/// Resident memory in megabytes, where the system says (Linux).
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e3
}

fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
}

/// Bytes a second of one thread: reading, and copying (each byte counted once). The best over pieces of 8 MB, taken in
/// turn from 256 MB so that none is in a cache; a piece is short enough not to be interrupted on a busy machine.
fn bandwidth() -> (f64, f64) {
    const PIECE: usize = 1 << 20;
    let from: Vec<u64> = (0..32 * PIECE as u64).collect();
    let mut to = vec![0u64; PIECE];
    let best = |work: &mut dyn FnMut(&[u64])| {
        let mut least = f64::MAX;
        for piece in (0..4).flat_map(|_| from.chunks_exact(PIECE)) {
            let start = Instant::now();
            work(black_box(piece));
            least = least.min(start.elapsed().as_secs_f64());
        }
        (PIECE * 8) as f64 / least
    };
    let read = best(&mut |piece| {
        black_box(piece.iter().fold(0, |a, b| a ^ b));
    });
    let copy = best(&mut |piece| black_box(&mut to).copy_from_slice(piece));
    (read, copy)
}

/// Milliseconds of searches: least, median, and the 99th of a hundred.
struct Times {
    least: f64,
    median: f64,
    p99: f64,
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "min {:6.2} p50 {:6.2} p99 {:6.2} ms", self.least, self.median, self.p99)
    }
}

fn measure(
    index: &VectorIndex,
    method: Method,
    queries: &[Vector],
    filter: Option<&Filter>,
) -> Result<(Times, Hits), Box<dyn Error>> {
    let (mut times, mut hits) = (Vec::new(), Vec::new());
    for query in queries {
        let start = Instant::now();
        hits.push(index.search_by(method, query, HITS, filter)?);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    Ok((Times { least: times[0], median: at(0.5), p99: at(0.99) }, hits))
}

fn recall(found: &[Vec<VectorHit>], exact: &[Vec<VectorHit>]) -> f64 {
    let pairs = found.iter().zip(exact);
    let right: usize = pairs.map(|(found, exact)| exact.iter().filter(|hit| found.contains(hit)).count()).sum();
    right as f64 / exact.iter().map(Vec::len).sum::<usize>() as f64
}

fn filled(vectors: &[Vector]) -> Result<VectorIndex, Box<dyn Error>> {
    let options = GraphOptions { threshold: 1, ..GraphOptions::default() };
    let mut index = VectorIndex::with_options(DIMENSION, "example", options);
    index.reserve(vectors.len());
    for (chunk, vector) in vectors.iter().enumerate() {
        index.insert(ChunkId(chunk as u64), vector)?;
    }
    Ok(index)
}

/// Prints how the graph does against the exact answer.
fn compare(index: &VectorIndex, queries: &[Vector], filter: Option<&Filter>) -> Result<(), Box<dyn Error>> {
    let (scan, exact) = measure(index, Method::Codes, queries, filter)?;
    println!("    scan         {scan}");
    for ef in EFS {
        let (walk, found) = measure(index, Method::Graph { ef }, queries, filter)?;
        println!("    graph ef {ef:3} {walk}  recall@{HITS} {:.4}", recall(&found, &exact));
    }
    let (auto, found) = measure(index, Method::Auto, queries, filter)?;
    println!("    chosen       {auto}  recall@{HITS} {:.4}", recall(&found, &exact));
    Ok(())
}

fn size(vectors: &[Vector], queries: &[Vector], read: f64) -> Result<VectorIndex, Box<dyn Error>> {
    let mut index = filled(vectors)?;
    let stats = index.stats();
    let limit = |bytes: usize| bytes as f64 / read * 1e3;
    let (codes_limit, floats_limit) = (limit(stats.code_bytes), limit(vectors.len() * DIMENSION * 4));
    println!("{} vectors, load {}", vectors.len(), load());
    for threads in [1, 0] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let time = |method, queries: &[Vector]| {
            pool.install(|| measure(&index, method, queries, None).map_err(|error| error.to_string()))
        };
        let few = &queries[..queries.len().min(50)];
        let ((floats, exact), (codes, same)) = (time(Method::Floats, few)?, time(Method::Codes, queries)?);
        println!(
            "  {} threads: floats {floats} (bytes / read bandwidth {floats_limit:.2}), codes {codes} ({codes_limit:.2}); \
             equal: {}",
            pool.current_num_threads(),
            exact == same[..exact.len()]
        );
    }
    let start = Instant::now();
    index.rebuild_now()?;
    let built = start.elapsed().as_secs_f64();
    println!(
        "  graph built and probed in {built:.1} s on {} threads, {:.0} bytes a vector",
        rayon::current_num_threads(),
        index.stats().graph_bytes as f64 / vectors.len() as f64
    );
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    pool.install(|| compare(&index, queries, None).map_err(|error| error.to_string()))?;
    Ok(index)
}

/// Prints how the crate `hnsw_rs` does on the same vectors with the same parameters.
fn peer(vectors: &[Vector], queries: &[Vector]) -> Result<(), Box<dyn Error>> {
    use hnsw_rs::prelude::{DistDot, Hnsw};
    let options = GraphOptions::default();
    let start = Instant::now();
    let hnsw = Hnsw::<f32, DistDot>::new(options.neighbours, vectors.len(), 16, options.ef_construction, DistDot {});
    let all: Vec<(&Vector, usize)> = vectors.iter().zip(0..).collect();
    hnsw.parallel_insert(&all);
    println!("hnsw_rs over {} vectors: built in {:.1} s, load {}", all.len(), start.elapsed().as_secs_f64(), load());
    let index = filled(vectors)?;
    for ef in EFS {
        let (mut times, mut right) = (Vec::new(), 0);
        for query in queries {
            let start = Instant::now();
            let found = hnsw.search(query, HITS, ef);
            times.push(start.elapsed().as_secs_f64() * 1e3);
            let exact = index.search_exact(query, HITS, None)?;
            right += exact.iter().filter(|hit| found.iter().any(|found| found.d_id as u64 == hit.chunk.0)).count();
        }
        times.sort_by(f64::total_cmp);
        let share = right as f64 / (queries.len() * HITS) as f64;
        println!("    ef {ef:3} min {:6.2} p50 {:6.2} ms  recall@{HITS} {share:.4}", times[0], times[times.len() / 2]);
    }
    Ok(())
}

fn write(dir: &Path, name: &str, vectors: &[Vector]) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(fs::File::create(dir.join(name))?);
    for value in vectors.iter().flatten() {
        file.write_all(&value.to_le_bytes())?;
    }
    file.flush()
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut count, mut seeds, mut is_hard, mut dir, mut peers, mut sizes) =
        (100_000, None, false, None, 0, &SIZES[..]);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--hard" => is_hard = true,
            "--only-largest" => sizes = &[],
            "--vectors" => count = arguments.next().ok_or("--vectors wants a number")?.parse()?,
            "--seeds" => seeds = Some(PathBuf::from(arguments.next().ok_or("--seeds wants a file")?)),
            "--write" => dir = Some(PathBuf::from(arguments.next().ok_or("--write wants a folder")?)),
            "--hnsw-rs" => peers = arguments.next().ok_or("--hnsw-rs wants a number")?.parse()?,
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    let (vectors, queries) = match seeds {
        Some(path) => from_seeds(count, &path)?,
        None if is_hard => hard(count),
        None => clustered(count),
    };
    if let Some(dir) = dir {
        fs::create_dir_all(&dir)?;
        write(&dir, "vectors.f32", &vectors)?;
        write(&dir, "queries.f32", &queries)?;
    }
    let (read, copy) = bandwidth();
    println!("memory: one thread reads {:.1} GB/s, copies {:.1} GB/s", read / 1e9, copy / 1e9);
    for smaller in sizes.iter().filter(|size| **size < count) {
        size(&vectors[..*smaller], &queries, read)?;
    }
    if peers > 0 {
        peer(&vectors[..peers.min(count)], &queries)?;
    }
    let before = resident();
    let mut index = size(&vectors, &queries, read)?;
    let stats = index.stats();
    println!(
        "memory: {:.0} MB vectors and codes, {:.0} MB graph; resident {:.0} MB more than before",
        stats.vector_bytes as f64 / 1e6,
        stats.graph_bytes as f64 / 1e6,
        resident() - before
    );
    drop(vectors);
    for (name, share) in [("half", 50), ("a tenth", 10), ("a hundredth", 1)] {
        println!("  filter that lets {name} through, load {}", load());
        // Multiplied, so that it is no pattern of the order in which vectors were made.
        let filter = move |chunk: ChunkId| chunk.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 0xffff < share * 655;
        compare(&index, &queries, Some(&filter))?;
    }
    let removed: Vec<ChunkId> = index.chunks().filter(|chunk| chunk.0 % 20 < 3).collect();
    for chunk in removed {
        index.remove(chunk);
    }
    println!("  15 % tombstones, load {}", load());
    compare(&index, &queries, None)?;
    let folder = std::env::temp_dir().join(format!("edgewise-scale-{}", std::process::id()));
    let start = Instant::now();
    index.save(&folder)?;
    let saved = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let loaded = VectorIndex::load(&folder, DIMENSION, "example", GraphOptions::default())?;
    let read_back = start.elapsed().as_secs_f64();
    let bytes: u64 = fs::read_dir(&folder)?
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .flat_map(|entry| fs::read_dir(entry.path()))
        .flat_map(|entries| entries.flatten())
        .flat_map(|entry| entry.metadata())
        .map(|metadata| metadata.len())
        .sum();
    fs::remove_dir_all(&folder)?;
    let same = loaded.map(|loaded| loaded.stats().graph) == Some(index.stats().graph);
    println!(
        "snapshot of {:.0} MB: written in {saved:.2} s, loaded in {read_back:.2} s, whole: {same}",
        bytes as f64 / 1e6
    );
    Ok(())
}
