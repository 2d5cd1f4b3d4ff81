//! placeholder
#[allow(dead_code, missing_docs)]
mod crd;
fn main() { print!("{}", crd::stream()); }
