//! How a command ends when it does not succeed: etcdctl's exit codes, which scripts test for.

use quorate_client::Error;

/// What every command returns.
pub type Done<T = ()> = Result<T, Failure>;

/// An exit code, and what to print after `Error: ` (nothing when the command has said it all).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Exit code of the process.
    pub code: u8,
    /// One line for stderr.
    pub message: Option<String>,
}

macro_rules! kinds {
    ($( $(#[$doc:meta])* $name:ident = $code:literal; )*) => {
        $(
            $(#[$doc])*
            pub fn $name(message: impl std::fmt::Display) -> Failure {
                Failure { code: $code, message: Some(message.to_string()) }
            }
        )*
    };
}

kinds! {
    /// The server refused, or something else went wrong.
    error = 1;
    /// No usable connection.
    bad_connection = 2;
    /// What was read is not what was expected.
    invalid_input = 3;
    /// Asked for something that does not exist here.
    bad_feature = 4;
    /// Cut short.
    interrupted = 5;
    /// The command line does not make sense.
    bad_args = 128;
}

/// A failure that has been reported already.
pub fn silent(code: u8) -> Failure {
    Failure { code, message: None }
}

impl From<Error> for Failure {
    fn from(failed: Error) -> Self {
        error(failed)
    }
}

impl From<std::io::Error> for Failure {
    fn from(failed: std::io::Error) -> Self {
        Self { code: 6, message: Some(failed.to_string()) }
    }
}
