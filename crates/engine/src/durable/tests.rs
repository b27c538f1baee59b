#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    sync::LazyLock,
};

use edgewise_kv_cache::{Boundary, CacheOptions, OpenRequest, Reserved, Ttl};
use edgewise_types::TenantId;
use proptest::prelude::*;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const PAGE_TOKENS: usize = 4;
const PAGE_BYTES: usize = 100;

/// Pages of random bytes.
struct Memory(Vec<Vec<u8>>);

impl Memory {
    fn random(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut page = || {
            let mut bytes = vec![0; PAGE_BYTES];
            random.fill_bytes(&mut bytes);
            bytes
        };
        Self((0..32).map(|_| page()).collect())
    }
}

impl PageMemory for Memory {
    fn execute(&mut self, moves: &[Move]) {
        assert!(moves.is_empty(), "nothing moves in these tests");
    }

    fn read(&mut self, place: Place, out: &mut Vec<u8>) {
        let Place::Device(page) = place else { panic!("there is no host tier in these tests") };
        out.extend_from_slice(&self.0[page.0 as usize]);
    }

    fn write(&mut self, page: PageId, bytes: &[u8]) -> Result<(), EngineError> {
        self.0[page.0 as usize] = bytes.to_vec();
        Ok(())
    }
}

fn identity() -> Identity {
    Identity::new(&[("model", b"m")])
}

fn cache(pages: usize) -> KvCache {
    KvCache::new(CacheOptions {
        page_tokens: PAGE_TOKENS,
        pages,
        host_pages: 0,
        min_prefix_tokens: 0,
        identity: identity(),
        secret: [1; 32],
        reserved: Reserved::default(),
    })
    .unwrap()
}

fn options(folder: &Path) -> DurableOptions {
    DurableOptions {
        folder: folder.to_owned(),
        max_bytes: 1 << 20,
        identity: identity(),
        secret: [1; 32],
        page_tokens: PAGE_TOKENS,
        page_bytes: PAGE_BYTES,
    }
}

/// `seconds` after the processes of these tests start.
fn at(seconds: u64) -> Now {
    let passed = Duration::from_secs(seconds);
    Now { cache: passed, wall: UNIX_EPOCH + Duration::from_secs(1_000_000_000) + passed }
}

fn tokens(kind: u32, length: u32) -> Vec<u32> {
    (0..length).map(|i| kind * 1000 + i).collect()
}

/// Computes a prompt and retains all of it.
fn retain(cache: &mut KvCache, tenant: &str, prompt: &[u32], ttl: Ttl, now: Now) {
    let boundaries = [Boundary { at: prompt.len(), ttl }];
    let tenant = TenantId(tenant.into());
    let request = OpenRequest { tenant: &tenant, prompt, public_tokens: 0, boundaries: &boundaries };
    let mut sequence = cache.open(&request, now.cache).sequence;
    let rest = &prompt[sequence.tokens()..];
    cache.reserve(&mut sequence, rest.len(), now.cache).unwrap();
    cache.commit(&mut sequence, rest, now.cache);
    cache.close(sequence, true, now.cache);
}

/// A folder with one prefix of ten tokens, the path of its file, and what its pages hold.
fn saved() -> (tempfile::TempDir, PathBuf, Vec<Vec<u8>>) {
    let folder = tempfile::tempdir().unwrap();
    let (mut cache, mut memory) = (cache(32), Memory::random(1));
    retain(&mut cache, "tenant", &tokens(1, 10), Ttl::OneHour, at(0));
    let mut store = DurablePrefixes::open(options(folder.path()), at(0)).unwrap();
    assert_eq!(store.sync(&mut cache, at(0), &mut memory, 9).unwrap(), Synced { written: 1, ..Synced::default() });
    let path = store.path(&cache.prefixes(at(0).cache)[0].digest.to_hex());
    (folder, path, contents(&mut cache, &memory))
}

fn contents(cache: &mut KvCache, memory: &Memory) -> Vec<Vec<u8>> {
    let id = cache.prefixes(Duration::ZERO)[0].id;
    let places = cache.export(id, Duration::ZERO).unwrap().pages;
    places
        .iter()
        .map(|place| if let Place::Device(page) = place { memory.0[page.0 as usize].clone() } else { panic!() })
        .collect()
}

/// Starts a process in `folder` some time later.
fn restart(options: DurableOptions, seconds: u64) -> (Restored, KvCache, Memory) {
    let now = Now { cache: Duration::ZERO, ..at(seconds) };
    let (mut cache, mut memory) = (cache(32), Memory::random(2));
    let restored = DurablePrefixes::open(options, now).unwrap().restore(&mut cache, now, &mut memory);
    let stats = cache.stats();
    assert_eq!((stats.used, stats.sequences, stats.prefixes), (0, 0, restored.prefixes));
    (restored, cache, memory)
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_prefix_comes_back_bit_for_bit() {
    let (folder, path, before) = saved();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (restored, mut cache, memory) = restart(options(folder.path()), 600);
    assert_eq!(restored, Restored { prefixes: 1, tokens: 10, ..Restored::default() });
    assert_eq!(contents(&mut cache, &memory), before);
    let info = cache.prefixes(Duration::ZERO).remove(0);
    assert_eq!((info.tenant.0.as_ref(), info.tokens, info.ttl), ("tenant", 10, Ttl::OneHour));
    assert_eq!(info.left, Duration::from_secs(3000));
    let prompt = [tokens(1, 10), vec![7]].concat();
    for (name, resident) in [("tenant", 10), ("other", 0)] {
        let tenant = TenantId(name.into());
        let request = OpenRequest { tenant: &tenant, prompt: &prompt, public_tokens: 0, boundaries: &[] };
        assert_eq!(cache.lookup(&request, Duration::ZERO).resident, resident);
    }
}

#[test]
fn files_follow_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let (mut cache, mut memory) = (cache(32), Memory::random(1));
    let mut store = DurablePrefixes::open(options(&folder.path().join("a/b")), at(0)).unwrap();
    retain(&mut cache, "t", &tokens(1, 10), Ttl::FiveMinutes, at(0));
    retain(&mut cache, "t", &tokens(2, 10), Ttl::OneHour, at(0));
    let mut sync = |cache: &mut KvCache, seconds| store.sync(cache, at(seconds), &mut memory, 1).unwrap();
    assert_eq!(sync(&mut cache, 1), Synced { written: 1, waiting: 1, ..Synced::default() });
    assert_eq!(sync(&mut cache, 1), Synced { written: 1, ..Synced::default() });
    assert_eq!(sync(&mut cache, 1), Synced::default());
    // A use moves the expiry, of which the next process learns.
    retain(&mut cache, "t", &tokens(1, 10), Ttl::FiveMinutes, at(200));
    assert_eq!(sync(&mut cache, 200), Synced { extended: 1, ..Synced::default() });
    let (restored, again, _) = restart(store.options.clone(), 450);
    assert_eq!((restored.prefixes, restored.refused), (2, 0));
    assert_eq!(again.prefixes(Duration::ZERO)[1].left, Duration::from_secs(50));
    assert_eq!(store.sync(&mut cache, at(500), &mut memory, 1).unwrap(), Synced { expired: 1, ..Synced::default() });
    let digest = cache.prefixes(at(500).cache)[0].digest;
    store.remove(&digest).unwrap();
    store.remove(&digest).unwrap();
    assert_eq!((store.bytes(), files(&store.options.folder)), (0, 0));
}

#[test]
fn what_is_not_ours_or_over_is_refused_and_removed() {
    let refused = |change: &dyn Fn(&mut DurableOptions), seconds: u64| {
        let (folder, _, _) = saved();
        let mut options = options(folder.path());
        change(&mut options);
        let (restored, ..) = restart(options, seconds);
        assert_eq!((restored.prefixes + restored.left, files(folder.path())), (0, 0));
        restored.refused
    };
    assert_eq!(refused(&|o| o.identity = Identity::new(&[("model", b"n")]), 0), 1);
    assert_eq!(refused(&|o| o.secret = [2; 32], 0), 1);
    assert_eq!(refused(&|o| o.page_bytes += 1, 0), 1);
    assert_eq!(refused(&|_| {}, 3600), 1);
    let (folder, path, _) = saved();
    fs::rename(&path, path.with_file_name("0".repeat(64)).with_extension(EXTENSION)).unwrap();
    assert_eq!(restart(options(folder.path()), 0).0.refused, 1);
    assert_eq!(files(folder.path()), 0);
}

#[test]
fn a_clock_that_went_back_gives_no_more_than_the_full_time() {
    let (folder, ..) = saved();
    let now = Now { cache: Duration::ZERO, wall: UNIX_EPOCH };
    let (mut cache, mut memory) = (cache(32), Memory::random(2));
    let restored = DurablePrefixes::open(options(folder.path()), now).unwrap().restore(&mut cache, now, &mut memory);
    assert_eq!(restored.prefixes, 1);
    assert_eq!(cache.prefixes(Duration::ZERO)[0].left, Duration::from_secs(3600));
}

#[test]
fn half_written_files_are_swept() {
    let (folder, path, _) = saved();
    let temporary = path.with_extension(TEMPORARY);
    fs::copy(&path, &temporary).unwrap();
    fs::write(folder.path().join("README"), "not ours to remove").unwrap();
    assert_eq!(restart(options(folder.path()), 0).0.prefixes, 1);
    assert!(!temporary.exists() && files(folder.path()) == 2);
    // One that appears while the process runs is in nobody's way.
    fs::remove_file(&path).unwrap();
    symlink("/dev/null", &temporary).unwrap();
    let (mut cache, mut memory) = (cache(32), Memory::random(1));
    retain(&mut cache, "tenant", &tokens(1, 10), Ttl::OneHour, at(0));
    let mut store = DurablePrefixes::open(options(folder.path()), at(0)).unwrap();
    assert_eq!(store.sync(&mut cache, at(0), &mut memory, 1).unwrap().written, 1);
    assert_eq!(restart(options(folder.path()), 0).0.prefixes, 1);
}

#[test]
fn the_limit_is_kept_by_what_expires_first() {
    let (folder, path, _) = saved();
    let bytes = fs::metadata(&path).unwrap().len();
    let limited = |files| DurableOptions { max_bytes: bytes * files + bytes / 2, ..options(folder.path()) };
    let (mut cache, mut memory) = (cache(32), Memory::random(1));
    let mut store = DurablePrefixes::open(limited(2), at(0)).unwrap();
    retain(&mut cache, "t", &tokens(2, 10), Ttl::FiveMinutes, at(0));
    assert_eq!(store.sync(&mut cache, at(0), &mut memory, 9).unwrap().written, 1);
    retain(&mut cache, "t", &tokens(3, 10), Ttl::OneHour, at(9));
    // Of three, the five-minute one goes. It isn't written again in place of one that lives longer.
    assert_eq!(store.sync(&mut cache, at(9), &mut memory, 9).unwrap(), Synced { written: 1, ..Synced::default() });
    assert_eq!((files(folder.path()), store.bytes() <= store.options.max_bytes), (2, true));
    assert!(path.exists());
    // A smaller limit takes effect at the next start.
    let (restored, cache, _) = restart(limited(1), 10);
    assert_eq!((restored.prefixes, files(folder.path())), (1, 1));
    assert_eq!(cache.prefixes(Duration::ZERO)[0].left, Duration::from_secs(3599));
}

#[test]
fn what_finds_no_room_in_the_cache_stays_on_disk() {
    let (folder, ..) = saved();
    let mut store = DurablePrefixes::open(options(folder.path()), at(0)).unwrap();
    let restored = store.restore(&mut cache(2), at(0), &mut Memory::random(2));
    assert_eq!((restored, files(folder.path())), (Restored { left: 1, ..Restored::default() }, 1));
}

#[test]
fn a_full_disk_costs_the_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (mut cache, mut memory) = (cache(32), Memory::random(1));
    retain(&mut cache, "t", &tokens(1, 10), Ttl::OneHour, at(0));
    let mut store = DurablePrefixes::open(options(folder.path()), at(0)).unwrap();
    // The kernel's own full disk behind the temporary name.
    store.create = |path| {
        symlink("/dev/full", path)?;
        OpenOptions::new().write(true).open(path)
    };
    let error = store.sync(&mut cache, at(0), &mut memory, 9).unwrap_err();
    let EngineError::Io { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    assert_eq!((store.bytes(), files(folder.path()), cache.stats().prefixes), (0, 0, 1));
    let by_parts = DurablePrefixes::open(options(folder.path()), at(0)).map(|store| DurablePrefixes {
        create: |path| {
            symlink("/dev/full", path)?;
            OpenOptions::new().write(true).open(path)
        },
        ..store
    });
    let error = by_pages(&mut by_parts.unwrap(), &mut cache, &mut memory, |_, _, _| ()).unwrap_err();
    assert!(matches!(error, EngineError::Io { .. }) && files(folder.path()) == 0, "{error}");
    // Not at once, but when there may be room again.
    store.create = create;
    assert_eq!(store.sync(&mut cache, at(1), &mut memory, 9).unwrap(), Synced::default());
    assert_eq!(store.sync(&mut cache, at(61), &mut memory, 9).unwrap().written, 1);
}

/// Writes page by page until nothing is left to do; `between` happens after each part.
fn by_pages(
    store: &mut DurablePrefixes,
    cache: &mut KvCache,
    memory: &mut Memory,
    mut between: impl FnMut(usize, &mut DurablePrefixes, &mut KvCache),
) -> Result<usize, EngineError> {
    store.slice_bytes = PAGE_BYTES;
    let mut written = 0;
    for part in 0..100_000 {
        let synced = store.sync_some(cache, at(0), memory)?;
        written += synced.written;
        if synced.waiting == 0 && !store.is_saving() {
            return Ok(written);
        }
        between(part, store, cache);
        std::thread::sleep(Duration::from_micros(100));
    }
    panic!("it never ends");
}

#[test]
fn a_file_written_in_parts_is_the_file_written_at_once() {
    let (_folder, path, _) = saved();
    let whole = fs::read(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (mut cache, mut memory) = (cache(32), Memory::random(1));
    retain(&mut cache, "tenant", &tokens(1, 10), Ttl::OneHour, at(0));
    let mut store = DurablePrefixes::open(options(folder.path()), at(0)).unwrap();
    assert_eq!(by_pages(&mut store, &mut cache, &mut memory, |_, _, _| ()).unwrap(), 1);
    assert_eq!(fs::read(folder.path().join(path.file_name().unwrap())).unwrap(), whole);
    // Another one is begun only when the first is there; what is begun is finished by the whole.
    retain(&mut cache, "tenant", &tokens(2, 10), Ttl::OneHour, at(0));
    retain(&mut cache, "tenant", &tokens(3, 10), Ttl::OneHour, at(0));
    assert_eq!(store.sync_some(&mut cache, at(0), &mut memory).unwrap().waiting, 1);
    store.sync(&mut cache, at(0), &mut memory, 9).unwrap();
    assert_eq!((files(folder.path()), store.is_saving()), (3, false));
}

#[test]
fn what_is_released_while_it_is_written_leaves_no_file() {
    for forgotten in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (mut cache, mut memory) = (cache(32), Memory::random(1));
        retain(&mut cache, "t", &tokens(1, 24), Ttl::OneHour, at(0));
        let info = cache.prefixes(at(0).cache)[0].clone();
        let mut store = DurablePrefixes::open(options(folder.path()), at(0)).unwrap();
        let written = by_pages(&mut store, &mut cache, &mut memory, |part, store, cache| {
            if part == 1 {
                assert!(cache.release(info.id));
                if forgotten {
                    store.remove(&info.digest).unwrap();
                }
            }
        });
        assert_eq!((written.unwrap(), files(folder.path()), store.bytes()), (0, 0, 0));
    }
}

#[test]
fn a_store_that_ends_while_it_writes_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let (mut cache, mut memory) = (cache(32), Memory::random(1));
    retain(&mut cache, "t", &tokens(1, 24), Ttl::OneHour, at(0));
    let mut store = DurablePrefixes::open(options(folder.path()), at(0)).unwrap();
    store.slice_bytes = PAGE_BYTES;
    store.sync_some(&mut cache, at(0), &mut memory).unwrap();
    assert!(store.is_saving());
    drop(store);
    assert_eq!(files(folder.path()), 0);
}

/// Fails after so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(self.0);
        self.0 -= fits;
        if fits == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(fits) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_disk_that_fills_up_anywhere_is_noticed() {
    let (_folder, path, pages) = saved();
    let bytes = fs::read(&path).unwrap();
    let keys = Keys::new(&identity(), &[1; 32]);
    let reader = Reader::new(&bytes[..], &keys, bytes.len() as u64).ok().unwrap();
    let write = |room| {
        let mut out = format::Writer::new(Full(room), &keys, &reader.header, reader.expires)?;
        pages.iter().try_for_each(|page| out.pages(page))?;
        out.finish().map(drop)
    };
    assert!((0..bytes.len()).all(|room| write(room).is_err()));
    assert!(write(bytes.len()).is_ok());
}

/// A damaged file is refused and removed, and nothing of it is found.
fn refused(damage: impl FnOnce(&mut Vec<u8>)) {
    static SOUND: LazyLock<(std::ffi::OsString, Vec<u8>)> = LazyLock::new(|| {
        let (_folder, path, _) = saved();
        (path.file_name().unwrap().to_owned(), fs::read(&path).unwrap())
    });
    let folder = tempfile::tempdir().unwrap();
    let (name, mut bytes) = SOUND.clone();
    damage(&mut bytes);
    fs::write(folder.path().join(name), bytes).unwrap();
    let (restored, cache, _) = restart(options(folder.path()), 0);
    assert_eq!(restored, Restored { refused: 1, ..Restored::default() });
    assert_eq!((cache.stats().free, files(folder.path())), (32, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_is_found(seed: u64) {
        refused(|bytes| {
            let bit = ChaCha8Rng::seed_from_u64(seed).random_range(0..bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        });
    }

    #[test]
    fn a_truncated_file_is_found(seed: u64) {
        refused(|bytes| bytes.truncate(ChaCha8Rng::seed_from_u64(seed).random_range(0..bytes.len())));
    }

    #[test]
    fn a_lost_block_is_found(seed: u64) {
        refused(|bytes| {
            let start = ChaCha8Rng::seed_from_u64(seed).random_range(0..bytes.len() - 16);
            bytes[start..start + 16].fill(0);
            bytes.push(0);
        });
    }
}
