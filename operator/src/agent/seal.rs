//! Encryption of objects at rest: AES-256-GCM over chunks, under a key of their own that is drawn from the user's key.
//!
//! ```text
//! "QUORSEAL"  version u8  key id 8 bytes  salt 32 bytes
//! chunk*      up to 64 KiB sealed, and its tag of 16 bytes; every chunk but the last is full
//! ```
//! The object's key is HKDF-SHA-256 of the user's key with the salt, so nonces may be a counter: chunk number, and whether it is the
//! last. The header is authenticated with every chunk. So chunks can be neither changed, swapped, left out, nor taken from another
//! object, and an object that was cut is noticed.
//!
//! In: bytes and a key; out: sealed bytes, and the other way round. Invariant: what [`Opener`] gives was sealed by a holder of the key;
//! whether it was all of it is known only once [`Opener::finish`] returns.

use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"QUORSEAL";
const VERSION: u8 = 1;
const ID: usize = 8;
const SALT: usize = 32;
const HEADER: usize = 8 + 1 + ID + SALT;
const CHUNK: usize = 64 << 10;
const TAG: usize = 16;
const PURPOSE: &[u8] = b"quorate backup object v1";
/// The file that holds the key with which new objects are sealed.
pub const CURRENT: &str = "key";

/// Why something cannot be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The object is sealed and there is no key.
    #[error("the object is encrypted with key {0}, and the store names no key (spec.encryption)")]
    NoKey(String),
    /// The object is sealed with another key.
    #[error("the object is encrypted with key {wanted}; the keys at hand are {known}")]
    WrongKey {
        /// Its key's id.
        wanted: String,
        /// Ids of those there are.
        known: String,
    },
    /// Changed, cut, or a mixture.
    #[error("the encrypted object is damaged")]
    Damaged,
    /// A newer build sealed it.
    #[error("the encrypted object has version {0}, this build knows {VERSION}")]
    Newer(u8),
    /// A key's file.
    #[error("encryption key {0}: {1}")]
    BadKey(String, String),
}

struct Key {
    bytes: [u8; 32],
    id: [u8; ID],
}

/// The keys of a store: one to seal with, all to open with.
pub struct Keys(Vec<Key>);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 32 bytes as they are, or as 64 hexadecimal digits.
fn parse(text: &[u8]) -> Option<[u8; 32]> {
    if let Ok(bytes) = text.try_into() {
        return Some(bytes);
    }
    let text = std::str::from_utf8(text).ok()?.trim();
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut out = [0; 32];
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(out)
}

/// Whether this can be a key.
pub fn is_key(text: &[u8]) -> bool {
    parse(text).is_some()
}

impl Keys {
    /// Reads a folder: the file `key` seals; it and all others open.
    ///
    /// # Errors
    /// When there is no `key`, or a file holds neither 32 bytes nor 64 hexadecimal digits.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let bad = |name: &str, why: &dyn std::fmt::Display| Error::BadKey(name.to_string(), why.to_string());
        let shown = folder.display().to_string();
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|e| bad(&shown, &e))? {
            let name = entry.map_err(|e| bad(&shown, &e))?.file_name().to_string_lossy().into_owned();
            // Kubernetes keeps a mounted Secret's versions in folders that begin with two dots.
            if !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort_by_key(|name| (name != CURRENT, name.clone()));
        if names.first().map(String::as_str) != Some(CURRENT) {
            return Err(bad(CURRENT, &"the Secret has no entry of this name"));
        }
        let key = |name: &String| {
            let text = std::fs::read(folder.join(name)).map_err(|e| bad(name, &e))?;
            let bytes = parse(&text).ok_or_else(|| bad(name, &"use 32 bytes, or 64 hexadecimal digits"))?;
            Ok(Self::key(bytes))
        };
        Ok(Self(names.iter().map(key).collect::<Result<_, Error>>()?))
    }

    fn key(bytes: [u8; 32]) -> Key {
        let digest = Sha256::new_with_prefix(b"quorate backup key id").chain_update(bytes).finalize();
        Key { bytes, id: digest[..ID].try_into().expect("a digest is longer") }
    }

    /// The id of the key that seals, hexadecimal.
    pub fn current(&self) -> String {
        hex(&self.0[0].id)
    }
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

fn object_key(key: &Key, salt: &[u8]) -> LessSafeKey {
    let mut bytes = [0; 32];
    let drawn = Salt::new(HKDF_SHA256, salt).extract(&key.bytes);
    drawn.expand(&[PURPOSE], Length).and_then(|okm| okm.fill(&mut bytes)).expect("32 bytes can be drawn");
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).expect("the key has the cipher's length"))
}

fn nonce(chunk: u64, last: bool) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&chunk.to_be_bytes());
    bytes[11] = u8::from(last);
    Nonce::assume_unique_for_key(bytes)
}

/// Seals one object.
pub struct Sealer {
    key: LessSafeKey,
    header: [u8; HEADER],
    chunk: u64,
    /// Nothing was given out yet.
    fresh: bool,
    waiting: Vec<u8>,
}

impl Sealer {
    /// Begins an object.
    pub fn new(keys: &Keys) -> Self {
        let key = &keys.0[0];
        let mut salt = [0; SALT];
        SystemRandom::new().fill(&mut salt).expect("the system has random bytes");
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8] = VERSION;
        header[9..9 + ID].copy_from_slice(&key.id);
        header[9 + ID..].copy_from_slice(&salt);
        Self { key: object_key(key, &salt), header, chunk: 0, fresh: true, waiting: Vec::new() }
    }

    /// Takes bytes; returns what can be written.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.waiting.extend_from_slice(bytes);
        let mut out = self.begin();
        while self.waiting.len() > CHUNK {
            let rest = self.waiting.split_off(CHUNK);
            let chunk = std::mem::replace(&mut self.waiting, rest);
            out.extend(self.seal(chunk, false));
        }
        out
    }

    /// The rest of the object.
    pub fn finish(mut self) -> Vec<u8> {
        let mut out = self.begin();
        let chunk = std::mem::take(&mut self.waiting);
        out.extend(self.seal(chunk, true));
        out
    }

    fn begin(&mut self) -> Vec<u8> {
        if std::mem::take(&mut self.fresh) { self.header.to_vec() } else { Vec::new() }
    }

    fn seal(&mut self, mut chunk: Vec<u8>, last: bool) -> Vec<u8> {
        let nonce = nonce(self.chunk, last);
        self.chunk += 1;
        self.key.seal_in_place_append_tag(nonce, Aad::from(&self.header), &mut chunk).expect("a chunk is short enough");
        chunk
    }
}

/// Opens one object, sealed or not.
pub struct Opener<'a> {
    keys: Option<&'a Keys>,
    state: State,
    waiting: Vec<u8>,
}

enum State {
    /// Too little has come to tell.
    Head,
    Plain,
    Sealed {
        key: Box<LessSafeKey>,
        header: [u8; HEADER],
        chunk: u64,
    },
}

impl<'a> Opener<'a> {
    /// An object that is read with these keys. One that is not sealed is taken as it is.
    pub fn new(keys: Option<&'a Keys>) -> Self {
        Self { keys, state: State::Head, waiting: Vec::new() }
    }

    /// Takes bytes; returns what they hold, as far as it is sure.
    ///
    /// # Errors
    /// When the key is not at hand or the bytes were not sealed with it.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        self.waiting.extend_from_slice(bytes);
        self.begin()?;
        let mut out = Vec::new();
        match &mut self.state {
            State::Head => {}
            State::Plain => out = std::mem::take(&mut self.waiting),
            State::Sealed { key, header, chunk } => {
                while self.waiting.len() > CHUNK + TAG {
                    let rest = self.waiting.split_off(CHUNK + TAG);
                    let sealed = std::mem::replace(&mut self.waiting, rest);
                    out.extend(open(key, header, *chunk, false, sealed)?);
                    *chunk += 1;
                }
            }
        }
        Ok(out)
    }

    /// The end of the object.
    ///
    /// # Errors
    /// As [`Opener::take`], and when the object was cut.
    pub fn finish(self) -> Result<Vec<u8>, Error> {
        match self.state {
            State::Head if self.waiting.starts_with(MAGIC) => Err(Error::Damaged),
            State::Head | State::Plain => Ok(self.waiting),
            State::Sealed { key, header, chunk } => open(&key, &header, chunk, true, self.waiting),
        }
    }

    fn begin(&mut self) -> Result<(), Error> {
        if !matches!(self.state, State::Head) {
            return Ok(());
        }
        let told = self.waiting.len().min(MAGIC.len());
        if self.waiting[..told] != MAGIC[..told] {
            self.state = State::Plain;
        } else if self.waiting.len() >= HEADER {
            let rest = self.waiting.split_off(HEADER);
            let header: [u8; HEADER] = std::mem::replace(&mut self.waiting, rest).try_into().expect("the length was looked at");
            if header[8] != VERSION {
                return Err(Error::Newer(header[8]));
            }
            let id = &header[9..9 + ID];
            let keys = self.keys.ok_or_else(|| Error::NoKey(hex(id)))?;
            let known = || keys.0.iter().map(|key| hex(&key.id)).collect::<Vec<_>>().join(", ");
            let key = keys.0.iter().find(|key| key.id == id);
            let key = key.ok_or_else(|| Error::WrongKey { wanted: hex(id), known: known() })?;
            self.state = State::Sealed { key: Box::new(object_key(key, &header[9 + ID..])), header, chunk: 0 };
        }
        Ok(())
    }
}

fn open(key: &LessSafeKey, header: &[u8; HEADER], chunk: u64, last: bool, mut sealed: Vec<u8>) -> Result<Vec<u8>, Error> {
    let opened = key.open_in_place(nonce(chunk, last), Aad::from(header), &mut sealed).map_err(|_| Error::Damaged)?;
    let length = opened.len();
    sealed.truncate(length);
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Keys {
        Keys(bytes.iter().map(|byte| Keys::key([*byte; 32])).collect())
    }

    fn seal(keys: &Keys, content: &[u8], cut: usize) -> Vec<u8> {
        let mut sealer = Sealer::new(keys);
        let mut out: Vec<u8> = content.chunks(cut).flat_map(|piece| sealer.take(piece)).collect();
        out.extend(sealer.finish());
        out
    }

    fn open_all(keys: Option<&Keys>, object: &[u8], cut: usize) -> Result<Vec<u8>, Error> {
        let mut opener = Opener::new(keys);
        let mut out = Vec::new();
        for piece in object.chunks(cut.max(1)) {
            out.extend(opener.take(piece)?);
        }
        out.extend(opener.finish()?);
        Ok(out)
    }

    /// Objects of every awkward length come back, however they are cut; a plain object passes; two seals of one content differ.
    #[test]
    fn round_trip() {
        let keys = keys(&[1]);
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7] {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            for cut in [1000, CHUNK, CHUNK + TAG, 200_000] {
                let object = seal(&keys, &content, cut);
                assert!(open_all(Some(&keys), &object, cut + 1).unwrap() == content, "{length} bytes by {cut}");
            }
            assert_ne!(seal(&keys, &content, CHUNK), seal(&keys, &content, CHUNK));
            assert!(open_all(Some(&keys), &content, 777).unwrap() == content);
        }
        assert_eq!(open_all(None, b"QUOR", 1).unwrap(), b"QUOR");
    }

    /// Any change, cut, exchange of chunks, foreign key or missing key is noticed, and the key is named.
    #[test]
    fn damage_and_keys() {
        let keys_a = keys(&[1]);
        let content = vec![9; 2 * CHUNK + 50];
        let object = seal(&keys_a, &content, 5000);
        for at in (8..object.len()).step_by(997).chain([8, 9, HEADER - 1, object.len() - 1]) {
            let mut bad = object.clone();
            bad[at] ^= 1;
            assert!(open_all(Some(&keys_a), &bad, 4096).is_err(), "byte {at}");
        }
        for length in [8, HEADER - 1, HEADER, HEADER + CHUNK + TAG, object.len() - 1, object.len() - 66] {
            assert!(open_all(Some(&keys_a), &object[..length], 4096).is_err(), "cut at {length}");
        }
        let mut swapped = object.clone();
        swapped[HEADER..HEADER + 2 * (CHUNK + TAG)].rotate_left(CHUNK + TAG);
        assert_eq!(open_all(Some(&keys_a), &swapped, 4096), Err(Error::Damaged));
        assert_eq!(open_all(None, &object, 4096), Err(Error::NoKey(keys_a.current())));
        let keys_b = keys(&[2, 3]);
        let told = open_all(Some(&keys_b), &object, 4096).unwrap_err();
        assert!(matches!(&told, Error::WrongKey { wanted, .. } if *wanted == keys_a.current()), "{told}");
        // A key that was replaced still opens what it sealed.
        assert!(open_all(Some(&keys(&[2, 1])), &object, 4096).unwrap() == content);
    }

    /// Keys are read from a folder as a mounted Secret shows them; what is none is refused by name.
    #[test]
    fn key_files() {
        let folder = std::env::temp_dir().join(format!("quorate-keys-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("..data")).unwrap();
        assert!(Keys::read(&folder).is_err_and(|e| e.to_string().contains("no entry of this name")));
        std::fs::write(folder.join(CURRENT), format!("{}\n", "0a".repeat(32))).unwrap();
        std::fs::write(folder.join("before"), [7; 32]).unwrap();
        let found = Keys::read(&folder).unwrap();
        assert_eq!((found.0.len(), found.current()), (2, keys(&[10]).current()));
        std::fs::write(folder.join("before"), "short").unwrap();
        assert!(Keys::read(&folder).is_err_and(|e| e.to_string().contains("before")));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
