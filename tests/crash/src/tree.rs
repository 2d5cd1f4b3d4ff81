//! A folder as a value: every path below it with its bytes, for "nothing was changed" comparisons and for copies.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What is at a path.
#[derive(Clone, PartialEq, Eq)]
pub enum Node {
    Dir,
    File(Vec<u8>),
    /// Anything else, by its target.
    Link(PathBuf),
}

/// Everything below a folder.
pub type Tree = BTreeMap<PathBuf, Node>;

/// Reads a folder whole; paths are relative to it.
///
/// # Errors
/// What the system says.
pub fn read(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let kind = fs::symlink_metadata(&path)?.file_type();
            let node = if kind.is_dir() {
                open.push(path.clone());
                Node::Dir
            } else if kind.is_file() {
                Node::File(fs::read(&path)?)
            } else {
                Node::Link(fs::read_link(&path).unwrap_or_default())
            };
            tree.insert(path.strip_prefix(root).expect("below the root").to_path_buf(), node);
        }
    }
    Ok(tree)
}

/// Writes a tree into an empty folder.
///
/// # Errors
/// What the system says.
pub fn write(root: &Path, tree: &Tree) -> io::Result<()> {
    fs::create_dir_all(root)?;
    for (path, node) in tree {
        let path = root.join(path);
        match node {
            Node::Dir => fs::create_dir(&path)?,
            Node::File(bytes) => fs::write(&path, bytes)?,
            Node::Link(target) => std::os::unix::fs::symlink(target, &path)?,
        }
    }
    Ok(())
}

/// The paths that differ.
#[must_use]
pub fn differences(a: &Tree, b: &Tree) -> Vec<PathBuf> {
    let paths: std::collections::BTreeSet<&PathBuf> = a.keys().chain(b.keys()).collect();
    paths.into_iter().filter(|path| a.get(*path) != b.get(*path)).cloned().collect()
}
