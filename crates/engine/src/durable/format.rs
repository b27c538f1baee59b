//! The file of one prefix.
//!
//! Little-endian, in this order:
//!
//! | bytes | |
//! |---|---|
//! | 8 | magic |
//! | 4 | version |
//! | 32 | identity of model, rotary embedding, number type and page size |
//! | 32 | fingerprint of the server's secret |
//! | 8 | expiry, milliseconds since 1970 |
//! | 32 | code over the above and the prefix's digest: the only part that is ever rewritten |
//! | 4 | length of the header |
//! | … | header: digest, tenant, tokens, time to live, page sizes |
//! | 32 | code over the header |
//! | … | pages |
//! | 32 | code over the header's code and the pages |
//!
//! The codes are BLAKE3 keyed from secret and identity: they catch damage, and a file of another server or model can't
//! have them. Nothing is believed before its code was seen, except lengths, which are checked against the file's.

use std::io::{self, Read, Write};

use edgewise_kv_cache::{Identity, PrefixRecord, Ttl};
use edgewise_types::TenantId;

const MAGIC: &[u8; 8] = b"EDGEWKV\n";
const VERSION: u32 = 1;
/// Length of everything before the header's length.
pub(super) const START: usize = 8 + 4 + 32 + 32 + 8 + 32;
const CODE: usize = 32;

/// What files are bound to.
#[derive(Clone)]
pub(super) struct Keys {
    identity: [u8; 32],
    server: [u8; 32],
    key: [u8; 32],
}

impl Keys {
    pub(super) fn new(identity: &Identity, secret: &[u8; 32]) -> Self {
        let mut bound = blake3::Hasher::new_keyed(secret);
        bound.update(b"durable prefix key").update(identity.as_bytes());
        Self {
            identity: *identity.as_bytes(),
            server: *blake3::keyed_hash(secret, b"durable prefix server").as_bytes(),
            key: *bound.finalize().as_bytes(),
        }
    }

    fn code(&self, part: &[u8]) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(part);
        hasher
    }

    fn start_code(&self, start: &[u8], digest: &[u8; 32]) -> blake3::Hash {
        self.code(b"start").update(start).update(digest).finalize()
    }
}

/// Why a file is not to be used.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It can't be read.
    Io(io::Error),
    /// It is damaged, foreign, or past its time.
    Content(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Content("it is truncated".to_owned()),
            _ => Self::Io(error),
        }
    }
}

fn refuse<T>(why: &str) -> Result<T, Refusal> {
    Err(Refusal::Content(why.to_owned()))
}

/// What a file holds besides its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// BLAKE3 name of the prefix.
    pub(super) digest: [u8; 32],
    pub(super) page_tokens: usize,
    pub(super) page_bytes: usize,
    /// Without the time left.
    pub(super) record: PrefixRecord,
}

impl Header {
    pub(super) fn pages(&self) -> usize {
        self.record.tokens.len().div_ceil(self.page_tokens.max(1))
    }

    fn encode(&self) -> Vec<u8> {
        let PrefixRecord { tenant, public_tokens, tokens, at, ttl, left: _ } = &self.record;
        let mut out = self.digest.to_vec();
        for number in [self.page_tokens, self.page_bytes, *public_tokens, *at, tenant.0.len(), tokens.len()] {
            out.extend_from_slice(&(number as u64).to_le_bytes());
        }
        out.push(match ttl {
            Ttl::FiveMinutes => 0,
            Ttl::OneHour => 1,
        });
        out.extend_from_slice(tenant.0.as_bytes());
        tokens.iter().for_each(|token| out.extend_from_slice(&token.to_le_bytes()));
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (digest, mut rest) = bytes.split_first_chunk::<32>()?;
        let mut numbers = [0; 6];
        for number in &mut numbers {
            let (bytes, after) = rest.split_first_chunk::<8>()?;
            *number = usize::try_from(u64::from_le_bytes(*bytes)).ok()?;
            rest = after;
        }
        let [page_tokens, page_bytes, public_tokens, at, tenant, tokens] = numbers;
        let (ttl, rest) = rest.split_first()?;
        let (tenant, rest) = rest.split_at_checked(tenant)?;
        let (rest, []) = rest.as_chunks::<4>() else { return None };
        let ttl = match ttl {
            0 => Ttl::FiveMinutes,
            1 => Ttl::OneHour,
            _ => return None,
        };
        let tenant = TenantId(std::str::from_utf8(tenant).ok()?.into());
        let ids: Vec<u32> = rest.iter().map(|token| u32::from_le_bytes(*token)).collect();
        let left = std::time::Duration::ZERO;
        let record = PrefixRecord { tenant, public_tokens, tokens: ids, at, ttl, left };
        (record.tokens.len() == tokens).then_some(Self { digest: *digest, page_tokens, page_bytes, record })
    }
}

/// The beginning of a file, which says until when it is good.
pub(super) fn start(keys: &Keys, digest: &[u8; 32], expires: u64) -> [u8; START] {
    let mut out = [0; START];
    let parts = [&MAGIC[..], &VERSION.to_le_bytes(), &keys.identity, &keys.server, &expires.to_le_bytes()].concat();
    out[..parts.len()].copy_from_slice(&parts);
    out[parts.len()..].copy_from_slice(keys.start_code(&parts, digest).as_bytes());
    out
}

/// Checks a beginning, apart from its code, and returns the expiry.
pub(super) fn read_start(keys: &Keys, bytes: &[u8; START]) -> Result<u64, Refusal> {
    let rest = bytes.strip_prefix(MAGIC);
    let Some((version, rest)) = rest.and_then(|rest| rest.split_first_chunk()) else {
        return refuse("it is no prefix file");
    };
    if u32::from_le_bytes(*version) != VERSION {
        return refuse("it was written by another version");
    }
    let (identity, rest) = rest.split_at(32);
    let (server, rest) = rest.split_at(32);
    if identity != keys.identity {
        return refuse("it belongs to another model or configuration");
    }
    if server != keys.server {
        return refuse("it belongs to a server with another secret");
    }
    let Some((expires, _)) = rest.split_first_chunk() else { return refuse("it is truncated") };
    Ok(u64::from_le_bytes(*expires))
}

/// Writes a file from its beginning to its end.
pub(super) struct Writer<W> {
    out: W,
    pages: blake3::Hasher,
    page_bytes: usize,
    left: usize,
}

impl<W: Write> Writer<W> {
    /// Writes everything before the pages.
    pub(super) fn new(mut out: W, keys: &Keys, header: &Header, expires: u64) -> io::Result<Self> {
        out.write_all(&start(keys, &header.digest, expires))?;
        let encoded = header.encode();
        let length = u32::try_from(encoded.len()).map_err(|_| io::Error::other("the prefix is too long for a file"))?;
        let code = keys.code(b"header").update(&encoded).finalize();
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&encoded)?;
        out.write_all(code.as_bytes())?;
        let mut pages = keys.code(b"pages");
        pages.update(code.as_bytes());
        Ok(Self { out, pages, page_bytes: header.page_bytes, left: header.pages() })
    }

    /// Writes the next pages: a whole number of them.
    pub(super) fn pages(&mut self, bytes: &[u8]) -> io::Result<()> {
        let count = bytes.len() / self.page_bytes.max(1);
        if count * self.page_bytes != bytes.len() || count > self.left {
            return Err(io::Error::other("a page isn't as long as the model's pages are"));
        }
        self.left -= count;
        self.pages.update(bytes);
        self.out.write_all(bytes)
    }

    /// Whether all pages were written.
    pub(super) fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Writes what stands behind the pages.
    pub(super) fn finish(mut self) -> io::Result<W> {
        if self.left > 0 {
            return Err(io::Error::other("pages are missing"));
        }
        self.out.write_all(self.pages.finalize().as_bytes())?;
        Ok(self.out)
    }
}

/// Length of a file in bytes.
pub(super) fn length(header: &Header) -> u64 {
    let around = START + 4 + header.encode().len() + 2 * CODE;
    around as u64 + header.pages() as u64 * header.page_bytes as u64
}

/// Reads a file from its beginning to its end.
pub(super) struct Reader<R> {
    input: R,
    pages: blake3::Hasher,
    pub(super) header: Header,
    /// Milliseconds since 1970.
    pub(super) expires: u64,
}

impl<R: Read> Reader<R> {
    /// Reads and checks everything before the pages. `length` is that of the file.
    pub(super) fn new(mut input: R, keys: &Keys, file_length: u64) -> Result<Self, Refusal> {
        let mut first = [0; START];
        input.read_exact(&mut first)?;
        let expires = read_start(keys, &first)?;
        let mut header_length = [0; 4];
        input.read_exact(&mut header_length)?;
        let header_length = u32::from_le_bytes(header_length);
        if u64::from(header_length) > file_length {
            return refuse("its header is damaged or truncated");
        }
        let mut encoded = vec![0; header_length as usize];
        input.read_exact(&mut encoded)?;
        let mut code = [0; CODE];
        input.read_exact(&mut code)?;
        let expected = keys.code(b"header").update(&encoded).finalize();
        let header = Header::decode(&encoded).filter(|_| expected == code);
        let Some(header) = header else { return refuse("its header is damaged") };
        if keys.start_code(&first[..START - CODE], &header.digest) != first[START - CODE..] {
            return refuse("its expiry is damaged");
        }
        if length(&header) != file_length {
            return refuse("its length is wrong");
        }
        let mut pages = keys.code(b"pages");
        pages.update(&code);
        Ok(Self { input, pages, header, expires })
    }

    /// The next page. It must not be used before [`Self::finish`] has succeeded.
    pub(super) fn page(&mut self, bytes: &mut Vec<u8>) -> Result<(), Refusal> {
        bytes.resize(self.header.page_bytes, 0);
        self.input.read_exact(bytes)?;
        self.pages.update(bytes);
        Ok(())
    }

    /// Checks what was read.
    pub(super) fn finish(mut self) -> Result<(), Refusal> {
        let mut code = [0; CODE];
        self.input.read_exact(&mut code)?;
        if self.pages.finalize() != code {
            return refuse("its pages are damaged");
        }
        Ok(())
    }

    /// Whether the file is of that name.
    pub(super) fn is_named(&self, digest: &str) -> bool {
        hex(&self.header.digest) == digest
    }
}

/// A digest as a file name.
pub(super) fn hex(digest: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*digest).to_hex().to_string()
}
