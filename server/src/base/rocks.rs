//! The durable rows in RocksDB: its own write-ahead log is off (raft's log is the only one), flushes are atomic over all families,
//! so that what is on disk is always a prefix of the batches written.

use super::manifest::{self, View};
use super::{Base, BaseError, BaseSizes, Batch, Cursor, Family, Pinned};
use bytes::Bytes;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DBCompressionType,
    DBRawIteratorWithThreadMode, FlushOptions, Options, ReadOptions, SliceTransform, WriteBatch, WriteOptions,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Budgets, in bytes, all scaled by the caller from the memory limit.
#[derive(Clone, Copy, Debug)]
pub struct RocksOptions {
    /// Blocks, indexes and filters kept in memory.
    pub block_cache: usize,
    /// Memtable size of one family; above a checkpoint's usual size, so that few flushes but our own write files.
    pub write_buffer: usize,
    /// Flushes and compactions at a time. RocksDB keeps a place for a flush; of the others a reclaim holds one for as long as it takes,
    /// and files of checkpoints that nobody joins meanwhile hold up the next checkpoint: three, not two. (Measured while 1.2 GB were
    /// reclaimed: the longest flush took 3.3 s with two, 0.3 s with three.)
    pub background_jobs: i32,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self { block_cache: 64 << 20, write_buffer: 128 << 20, background_jobs: 3 }
    }
}

/// Rows in a RocksDB folder.
pub struct RocksBase {
    db: DB,
    // After the database: a folder is removed only when it is closed.
    folder: Folder,
    _view: Option<View>,
}

/// The folder, removed with its owner once it is retired.
struct Folder {
    path: PathBuf,
    retired: AtomicBool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.retired.load(Ordering::Acquire)
            && let Err(e) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(folder = %self.path.display(), error = %e, "superseded rows could not be removed; the next start tries again");
        }
    }
}

fn fail(e: rocksdb::Error) -> BaseError {
    let text = e.to_string();
    match e.kind() {
        rocksdb::ErrorKind::Corruption => BaseError::Corrupt(text),
        _ if text.contains("No space left on device") || text.contains("Disk quota exceeded") => BaseError::NoSpace(text),
        // RocksDB names the file that its own list says must be there.
        _ if text.contains("No such file or directory") => BaseError::Corrupt(text),
        _ if text.contains("lock") && text.contains("LOCK") => BaseError::Locked(text),
        _ => BaseError::Io(text),
    }
}

fn family_options(family: Family, o: &RocksOptions, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(5);
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    let mut opts = Options::default();
    opts.set_write_buffer_size(o.write_buffer);
    opts.set_arena_block_size(256 << 10);
    opts.set_max_write_buffer_number(4);
    opts.set_level_compaction_dynamic_level_bytes(true);
    opts.set_paranoid_checks(true);
    match family {
        Family::Log => {
            table.set_block_size(16 << 10);
            opts.set_compression_type(DBCompressionType::Lz4);
            opts.set_bottommost_compression_type(DBCompressionType::Lz4);
            opts.set_target_file_size_base(128 << 20);
        }
        Family::Latest => {
            table.set_block_size(8 << 10);
            table.set_bloom_filter(10.0, false);
            table.set_whole_key_filtering(true);
            opts.set_compression_type(DBCompressionType::Lz4);
            opts.set_target_file_size_base(32 << 20);
        }
        Family::Hist => {
            table.set_block_size(8 << 10);
            opts.set_prefix_extractor(SliceTransform::create_noop());
            opts.set_compression_type(DBCompressionType::Lz4);
            opts.set_target_file_size_base(32 << 20);
            opts.add_compact_on_deletion_collector_factory(4096, 2048, 0.5);
        }
        Family::Sys => {
            table.set_block_size(4 << 10);
        }
    }
    if family == Family::Log {
        opts.add_compact_on_deletion_collector_factory(4096, 2048, 0.5);
    }
    opts.set_block_based_table_factory(&table);
    opts
}

fn fail_io(dir: &Path) -> impl Fn(std::io::Error) -> BaseError {
    let dir = dir.display().to_string();
    move |e| BaseError::Io(format!("{dir}: {e}"))
}

/// Opens a folder to read it; another process may have it open. Where the end of its list of files is torn, it is read without that.
fn read_only(dir: &Path, o: RocksOptions) -> Result<(DB, Option<View>), BaseError> {
    let mut options = Options::default();
    options.set_max_open_files(512);
    options.set_paranoid_checks(true);
    let cache = Cache::new_lru_cache(o.block_cache);
    let families = Family::ALL.iter().map(|f| ColumnFamilyDescriptor::new(f.name(), family_options(*f, &o, &cache)));
    let view = manifest::torn(dir).map_err(fail_io(dir))?.map(|torn| torn.view()).transpose().map_err(fail_io(dir))?;
    let at = view.as_ref().map_or(dir, |view| &view.path);
    let db = DB::open_cf_descriptors_read_only(&options, at, families, false).map_err(|e| in_dir(e, dir, view.as_ref()))?;
    Ok((db, view))
}

/// An error of a folder by the names of its own files.
fn in_dir(e: rocksdb::Error, dir: &Path, view: Option<&View>) -> BaseError {
    let own = dir.to_string_lossy();
    match fail(e) {
        BaseError::Corrupt(text) => {
            let text = match view {
                Some(view) => text.replace(&*view.path.to_string_lossy(), &own),
                None => text,
            };
            BaseError::Corrupt(if text.contains(&*own) { text } else { format!("{own}: {text}") })
        }
        other => other,
    }
}

/// Row bytes that a start reads and checks at most. What is beyond is checked when it is read: RocksDB keeps a checksum of each block
/// and gives an error, never the bytes.
const VERIFY_MOST: u64 = 1 << 30;

impl RocksBase {
    /// Reads the folder without changing a byte of it: the catalogue of files, the size of each, and the rows themselves, those every
    /// start needs first, up to `VERIFY_MOST` bytes.
    ///
    /// True when the end of the catalogue is torn, so that [`RocksBase::open`] would go back to the rows before it, which are those that
    /// were read. Then the log must have every entry since: look at [`RocksBase::open_read_only`] first, which shows those rows.
    ///
    /// # Errors
    /// `Corrupt` with the file and the offset as RocksDB found them.
    pub fn verify(dir: &Path, o: RocksOptions) -> Result<bool, BaseError> {
        if !dir.join("CURRENT").exists() {
            return Err(BaseError::Corrupt(format!("{} is missing", dir.join("CURRENT").display())));
        }
        let (db, view) = read_only(dir, o)?;
        let mut left = VERIFY_MOST;
        for family in [Family::Sys, Family::Latest, Family::Hist, Family::Log] {
            let mut read = ReadOptions::default();
            read.fill_cache(false);
            read.set_readahead_size(1 << 20);
            let cf = db.cf_handle(family.name()).expect("every family was opened");
            let mut rows = db.raw_iterator_cf_opt(cf, read);
            rows.seek_to_first();
            while let Some((key, value)) = rows.item() {
                let bytes = (key.len() + value.len()) as u64;
                if bytes > left {
                    tracing::info!(
                        checked_bytes = VERIFY_MOST,
                        family = family.name(),
                        "the rows beyond are checked when they are read"
                    );
                    return Ok(view.is_some());
                }
                left -= bytes;
                rows.next();
            }
            rows.status().map_err(|e| in_dir(e, dir, view.as_ref()))?;
        }
        Ok(view.is_some())
    }

    /// Opens the folder, making it when it is not there. A torn end of its list of files is cut off.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged, `Locked` when another process has it open.
    pub fn open(dir: &Path, o: RocksOptions) -> Result<Self, BaseError> {
        let mut db = Options::default();
        db.create_if_missing(true);
        db.create_missing_column_families(true);
        db.set_atomic_flush(true);
        db.set_max_background_jobs(o.background_jobs);
        db.set_bytes_per_sync(1 << 20);
        db.set_max_open_files(512);
        db.set_keep_log_file_num(2);
        db.set_max_log_file_size(1 << 20);
        db.set_log_level(rocksdb::LogLevel::Warn);
        db.set_max_manifest_file_size(4 << 20);
        db.set_stats_dump_period_sec(0);
        db.set_stats_persist_period_sec(0);
        db.set_avoid_unnecessary_blocking_io(true);
        db.set_paranoid_checks(true);
        let cache = Cache::new_lru_cache(o.block_cache);
        let mut families = vec![ColumnFamilyDescriptor::new("default", Options::default())];
        families.extend(Family::ALL.iter().map(|f| ColumnFamilyDescriptor::new(f.name(), family_options(*f, &o, &cache))));
        if manifest::torn(dir).map_err(fail_io(dir))?.is_some() {
            let locked = || BaseError::Locked(format!("{}: another process has these rows open", dir.display()));
            let _alone = manifest::alone(dir).map_err(fail_io(dir))?.ok_or_else(locked)?;
            // Looked at again, now that nobody writes it.
            if let Some(torn) = manifest::torn(dir).map_err(fail_io(dir))? {
                torn.cut().map_err(fail_io(dir))?;
            }
        }
        let db = DB::open_cf_descriptors(&db, dir, families).map_err(fail)?;
        Ok(Self { db, folder: Folder { path: dir.to_path_buf(), retired: AtomicBool::new(false) }, _view: None })
    }

    /// Opens the folder to read it: nothing can be written, and another process may have it open.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged or no folder of rows.
    pub fn open_read_only(dir: &Path, o: RocksOptions) -> Result<Self, BaseError> {
        let (db, _view) = read_only(dir, o)?;
        Ok(Self { db, folder: Folder { path: dir.to_path_buf(), retired: AtomicBool::new(false) }, _view })
    }

    fn cf(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every family was opened")
    }

    fn property(&self, family: Family, name: &str) -> u64 {
        self.db.property_int_value_cf(self.cf(family), name).ok().flatten().unwrap_or(0)
    }
}

struct RocksCursor<'a> {
    it: DBRawIteratorWithThreadMode<'a, DB>,
}

impl RocksCursor<'_> {
    fn check(&self) -> Result<(), BaseError> {
        self.it.status().map_err(fail)
    }
}

impl Cursor for RocksCursor<'_> {
    fn row(&self) -> Option<(&[u8], &[u8])> {
        self.it.item()
    }

    fn advance(&mut self) -> Result<(), BaseError> {
        self.it.next();
        self.check()
    }

    fn seek(&mut self, key: &[u8]) -> Result<(), BaseError> {
        self.it.seek(key);
        self.check()
    }
}

struct PinnedRocks<'a> {
    base: &'a RocksBase,
    snapshot: rocksdb::Snapshot<'a>,
}

/// Bytes read ahead of a long walk.
const READ_AHEAD: usize = 2 << 20;

impl Pinned for PinnedRocks<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        Ok(self.snapshot.get_cf(self.base.cf(family), key).map_err(fail)?.map(Bytes::from))
    }

    fn cursor<'a>(&'a self, family: Family, lower: &[u8]) -> Result<Box<dyn Cursor + 'a>, BaseError> {
        let mut read = ReadOptions::default();
        // A walk over everything must not push out what clients read.
        read.fill_cache(false);
        read.set_readahead_size(READ_AHEAD);
        let mut it = self.snapshot.raw_iterator_cf_opt(self.base.cf(family), read);
        it.seek(lower);
        let cursor = RocksCursor { it };
        cursor.check()?;
        Ok(Box::new(cursor))
    }
}

impl Base for RocksBase {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        let found = self.db.get_pinned_cf(self.cf(family), key).map_err(fail)?;
        Ok(found.map(|v| Bytes::copy_from_slice(&v)))
    }

    fn get_many(&self, family: Family, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, BaseError> {
        let found = self.db.batched_multi_get_cf(self.cf(family), keys.iter(), false);
        found.into_iter().map(|v| v.map(|v| v.map(|v| Bytes::copy_from_slice(&v))).map_err(fail)).collect()
    }

    fn cursor<'a>(&'a self, family: Family, lower: &[u8], upper: Option<&[u8]>) -> Result<Box<dyn Cursor + 'a>, BaseError> {
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(lower);
        if let Some(upper) = upper {
            // RocksDB asserts lower <= upper; an interval turned round is an empty one.
            read.set_iterate_upper_bound(upper.max(lower));
        }
        let mut it = self.db.raw_iterator_cf_opt(self.cf(family), read);
        it.seek(lower);
        let cursor = RocksCursor { it };
        cursor.check()?;
        Ok(Box::new(cursor))
    }

    fn write(&self, batch: Batch) -> Result<(), BaseError> {
        let mut rows = WriteBatch::default();
        for (family, key, value) in &batch.rows {
            match value {
                Some(value) => rows.put_cf(self.cf(*family), key, value),
                None => rows.delete_cf(self.cf(*family), key),
            }
        }
        let mut opts = WriteOptions::default();
        opts.disable_wal(true);
        self.db.write_opt(rows, &opts).map_err(fail)
    }

    fn flush(&self) -> Result<(), BaseError> {
        let mut opts = FlushOptions::default();
        opts.set_wait(true);
        let families: Vec<_> = Family::ALL.iter().map(|f| self.cf(*f)).collect();
        self.db.flush_cfs_opt(&families, &opts).map_err(fail)?;
        // RocksDB (11.8.1, `DBImpl::AtomicFlushMemTables`) waits for each family of several with the number of another one's memtable,
        // and so may come back too early when a flush that it began itself is still under way. Of one family alone it waits for the
        // right one, and where nothing is left there is nothing to do.
        families.into_iter().try_for_each(|family| self.db.flush_cf_opt(family, &opts)).map_err(fail)
    }

    fn pinned(&self, work: &mut dyn FnMut(&dyn Pinned)) {
        work(&PinnedRocks { base: self, snapshot: self.db.snapshot() });
    }

    fn retire(&self) {
        self.folder.retired.store(true, Ordering::Release);
    }

    fn reclaim(&self) -> Result<(), BaseError> {
        let mut options = CompactOptions::default();
        // Its own compactions go on beside this one.
        options.set_exclusive_manual_compaction(false);
        for family in Family::ALL {
            self.db.compact_range_cf_opt(self.cf(family), None::<&[u8]>, None::<&[u8]>, &options);
        }
        Ok(())
    }

    fn sizes(&self) -> BaseSizes {
        let sum = |name: &str| Family::ALL.iter().map(|f| self.property(*f, name)).sum::<u64>();
        let memtables = sum("rocksdb.cur-size-all-mem-tables");
        BaseSizes {
            on_disk: sum("rocksdb.total-sst-files-size") + memtables,
            live: sum("rocksdb.estimate-live-data-size") + memtables,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a flush was called for is on disk when it returns, though RocksDB flushes of its own accord between two batches and its
    /// families have seen different numbers of flushes.
    #[test]
    fn a_flush_beside_one_of_rocksdbs_own_is_whole() {
        // Where RocksDB put its families in memory plays a part, so a number of them.
        for _ in 0..12 {
            flushes_are_whole();
        }
    }

    fn flushes_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let options = RocksOptions { block_cache: 1 << 20, write_buffer: 256 << 10, background_jobs: 2 };
        let base = RocksBase::open(&dir.path().join("db"), options).unwrap();
        let row = |family, key: u32, value: Vec<u8>| {
            let mut batch = Batch::default();
            batch.put(family, key.to_be_bytes().to_vec(), value);
            base.write(batch).unwrap();
        };
        // Each family falls behind the ones after it.
        for (n, families) in [&Family::ALL[3..], &Family::ALL[2..], &Family::ALL[1..]].into_iter().enumerate() {
            families.iter().for_each(|family| row(*family, n as u32, vec![0]));
            base.flush().unwrap();
        }
        for n in 0..40u32 {
            // Fills the memtable of `log`: the next write has RocksDB flush.
            row(Family::Log, n, vec![n as u8; 400 << 10]);
            row(Family::Sys, 0, n.to_be_bytes().to_vec());
            base.flush().unwrap();
            for family in Family::ALL {
                let waiting = base.property(family, "rocksdb.num-immutable-mem-table");
                let written = base.property(family, "rocksdb.num-entries-active-mem-table");
                assert_eq!((waiting, written), (0, 0), "in memory alone after flush {n}, of {}", family.name());
            }
        }
    }

    /// The space of deleted rows comes back, and what is kept stays.
    #[test]
    fn reclaim_shrinks() {
        let dir = tempfile::tempdir().unwrap();
        let base = RocksBase::open(&dir.path().join("db"), RocksOptions::default()).unwrap();
        // Bytes that no compression shrinks, and a row in between that stays.
        let value = |n: u32| -> Vec<u8> { (0u32..1024).map(|i| ((n * 31 + i).wrapping_mul(2_654_435_761) >> 24) as u8).collect() };
        let key = |n: u32| n.to_be_bytes().to_vec();
        let mut batch = Batch::default();
        (0..4000).for_each(|n| batch.put(Family::Log, key(n), value(n)));
        base.write(batch).unwrap();
        base.flush().unwrap();
        let mut batch = Batch::default();
        (0..4000).filter(|n| n % 1000 != 7).for_each(|n| batch.delete(Family::Log, key(n)));
        base.write(batch).unwrap();
        base.flush().unwrap();
        let before = base.sizes().on_disk;
        base.reclaim().unwrap();
        let after = base.sizes().on_disk;
        assert!(after < before / 4, "{before} {after}");
        assert_eq!(base.get(Family::Log, &key(1007)).unwrap().as_deref(), Some(&value(1007)[..]));
        assert_eq!(base.get(Family::Log, &key(1008)).unwrap(), None);
    }
}
